"""What coco-caption says, to compare with: its tokeniser in Java, its scorers, and captions."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

Candidates = list[list[str]]
References = list[list[list[str]]]

_SEPARATOR = "x"
_PUNCTUATIONS = "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;"  # coco-caption's list


def corenlp() -> Path:
    """CoreNLP's jar; skips the test where that or Java is missing."""
    if shutil.which("java") is None:
        pytest.skip("no Java")
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        pytest.skip("no pycocoevalcap")
    home = Path(package.submodule_search_locations[0])
    return home / "tokenizer" / "stanford-corenlp-3.4.1.jar"


def java_tokens(captions: list[str]) -> list[list[str]]:
    """The tokens of coco-caption's own command, all captions in one process."""
    jar = corenlp()
    dropped = _PUNCTUATIONS.split()
    # With a line between them, so that no rule looks from one caption into the next.
    lines = [line for caption in captions for line in (caption, _SEPARATOR)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.txt"
        path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
        done = subprocess.run(
            ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar),
             "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(path)],
            capture_output=True,
            check=True,
            timeout=300,
        )  # fmt: skip
    found = done.stdout.decode("utf-8").split("\n")
    assert found[1 : len(lines) : 2] == [_SEPARATOR] * len(captions), "Java is out of step"
    return [
        " ".join(word for word in line.rstrip().split(" ") if word not in dropped).split()
        for line in found[: len(lines) : 2]
    ]


def flickr8k() -> dict[str, list[str]]:
    """File name -> five captions; skips the test where the data set is missing."""
    path = Path(os.environ.get("JAXCAP_FLICKR8K") or "absent", "Flickr8k.token.txt")
    if not path.is_file():
        pytest.skip(f"no {path.name}: see tests/conftest.py")
    captions: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, caption = line.split("\t")
        captions.setdefault(name.split("#")[0], []).append(caption)
    return captions


def drawn(seed: int, images: int) -> tuple[Candidates, References]:
    """Captions with the frequencies of real ones, and all that may go wrong with some.

    Words follow Zipf's law and an image has a few of its own, so that n-grams of every order
    match now and then. One to five references; empty, one-word, very long and repeated captions.
    """
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(300)]
    weights = [1 / (i + 1) for i in range(300)]

    def caption(topic: list[str]) -> list[str]:
        length = rng.choice([0, 1, 2, 5, 8, 9, 10, 11, 12, 15, 25])
        if rng.random() < 0.02:
            length = 400
        said = rng.choices(words + topic, [*weights, *[0.3] * len(topic)], k=length)
        start = rng.choice([[], ["a", "man"], ["a", "man", "in", "a"], ["two", "dogs"]])
        return start + said

    candidates, references = [], []
    for _ in range(images):
        topic = rng.choices(words, k=6)
        said = [caption(topic) for _ in range(rng.randint(1, 5))]
        if rng.random() < 0.2:
            said.append(rng.choice(said))
        references.append(said)
        candidates.append(rng.choice(said) if rng.random() < 0.3 else caption(topic))
    return candidates, references
