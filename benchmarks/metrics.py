"""Measure scoring against pycocoevalcap, and the reward of self-critical training.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py --captions Flickr8k.token.txt

Score 5,000 images with 5 references each. Both programs alternate on the same tokens and must
agree. The captions come from Flickr8k's token file. Without `--captions` they are random, with
realistic word frequencies and lengths. The candidate of an image is a reference of another image,
in place of a model's caption. Java's times include its start, once for all captions.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from jaxcap.metrics import bleu_of, cider_of, match_words, rouge_l, tokenize
from jaxcap.metrics import evaluate_captions as evaluate
from jaxcap.metrics.reward import CiderReward

PAD, EOS, FIRST_WORD = 0, 2, 4


@dataclass(frozen=True)
class Arguments:
    """Time BLEU, ROUGE-L, CIDEr-D, the tokenizer, and the reward."""

    captions: Path | None = None
    """Flickr8k.token.txt."""
    images: int = 5000
    references: int = 5
    repeats: int = 3
    batch_size: int = 64
    samples: int = 5
    batches: int = 50
    """Number of timed batches of rewards."""


def read(path: Path, images: int, references: int) -> list[list[str]]:
    """Return the captions of the first images of a Flickr token file."""
    captions: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, caption = line.split("\t")
        captions.setdefault(name.split("#")[0], []).append(caption)
    return [each[:references] for each in list(captions.values())[:images]]


def invent(images: int, references: int) -> list[list[str]]:
    """Return random captions: Zipf's law, 11 words on average, as in Flickr8k."""
    rng = random.Random(0)
    words = [f"w{''.join(chr(97 + int(d)) for d in str(i))}" for i in range(8000)]
    weights = [1 / (i + 2) for i in range(len(words))]

    def caption(topic: list[str]) -> str:
        length = min(35, max(2, round(rng.gauss(11, 3.5))))
        said = rng.choices(words, weights, k=length)
        for place in rng.sample(range(length), min(3, length)):
            said[place] = rng.choice(topic)
        return " ".join(said).capitalize() + " ."

    return [
        [caption(topic) for _ in range(references)]
        for topic in (rng.choices(words[:2000], k=5) for _ in range(images))
    ]


def alternate(repeats: int, **programs: Callable[[], object]) -> dict[str, list[float]]:
    """Return the seconds of each program, run in alternation."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, run in programs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def coco_caption(candidates: list[list[str]], references: list[list[list[str]]]) -> dict:
    """Return a function that runs pycocoevalcap's three scorers, and its scores per image."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    found = {i: [" ".join(c)] for i, c in enumerate(candidates)}
    wanted = {i: [" ".join(r) for r in refs] for i, refs in enumerate(references)}
    return {
        "BLEU": lambda: np.transpose(Bleu(4).compute_score(wanted, found, verbose=0)[1]),
        "ROUGE-L": lambda: Rouge().compute_score(wanted, found)[1],
        "CIDEr-D": lambda: Cider().compute_score(wanted, found)[1],
    }


def java(captions: list[str]) -> Callable[[], object] | None:
    """Run coco-caption's tokeniser in a new process each time; None without Java."""
    package = importlib.util.find_spec("pycocoevalcap")
    if shutil.which("java") is None or package is None:
        return None
    assert package.submodule_search_locations
    jar = Path(package.submodule_search_locations[0]) / "tokenizer/stanford-corenlp-3.4.1.jar"

    def run() -> None:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write("\n".join(captions))
            file.flush()
            subprocess.run(
                ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer",
                 "-preserveLines", "-lowerCase", file.name],
                capture_output=True,
                check=True,
            )  # fmt: skip

    return run


def reward_milliseconds(arguments: Arguments, tokens: list[list[list[str]]]) -> list[float]:
    """Time rewards of samples: other images' references with a tenth of the words changed."""
    ids: dict[str, int] = {}
    training = [
        [[ids.setdefault(w, len(ids) + FIRST_WORD) for w in words] + [EOS] for words in refs]
        for refs in tokens
    ]
    reward = CiderReward.from_references(training, eos=EOS, ignored=(PAD,), bleu=0.5)
    rng = np.random.default_rng(0)
    milliseconds = []
    for _ in range(arguments.batches):
        images = rng.integers(0, len(training), arguments.batch_size)
        samples = np.full((arguments.batch_size, arguments.samples, 20), PAD, np.int32)
        for row in samples.reshape(-1, 20):
            refs = training[rng.integers(0, len(training))]
            said = np.array(refs[rng.integers(0, len(refs))][:20])
            changed = (rng.random(len(said)) < 0.1) & (said != EOS)
            row[: len(said)] = np.where(changed, rng.integers(4, 4 + len(ids), len(said)), said)
        began = time.perf_counter()
        reward(images, samples)
        milliseconds.append(1000 * (time.perf_counter() - began))
    return milliseconds


def main(arguments: Arguments) -> None:
    """Print medians, and the ratio of the two programs."""
    if arguments.captions is None:
        texts = invent(arguments.images, arguments.references)
    else:
        texts = read(arguments.captions, arguments.images, arguments.references)
    began = time.perf_counter()
    tokens = [[tokenize(caption) for caption in refs] for refs in texts]
    first = time.perf_counter() - began
    rng = random.Random(0)
    order = rng.sample(range(len(texts)), len(texts))
    said = [texts[i][0] for i in order]
    candidates = [tokens[i][0] for i in order]

    scorers = coco_caption(candidates, tokens)

    def ours() -> tuple[object, object, object]:
        matches = match_words(candidates, tokens)
        return bleu_of(matches), rouge_l(candidates, tokens), cider_of(matches)

    results = ours()
    for scorer, result in zip(scorers.values(), results, strict=True):
        np.testing.assert_allclose(result.per_image, 100 * np.array(scorer()), rtol=0, atol=1e-7)
    seconds = alternate(arguments.repeats, jaxcap=ours, **scorers)
    theirs = [sum(each) for each in zip(*(seconds[name] for name in scorers), strict=True)]

    flat = [caption for refs in texts for caption in refs] + said
    by_java = java(flat)
    programs: dict[str, Callable[[], object]] = {"jaxcap": lambda: [tokenize(c) for c in flat]}
    if by_java is not None:
        programs["java"] = by_java
    splitting = alternate(arguments.repeats, **programs)
    numbered = dict(enumerate(said)), dict(enumerate(texts))
    whole = alternate(arguments.repeats, all=lambda: evaluate(*numbered))["all"]
    rewards = reward_milliseconds(arguments, tokens)

    table = Table(box=box.SIMPLE, title=f"{len(texts)} images x {arguments.references} references")
    for heading in ("seconds, median of " + str(arguments.repeats), "pycocoevalcap", "jaxcap", ""):
        table.add_column(heading, justify="right" if table.columns else "left")

    def row(name: str, them: list[float] | None, us: list[float] | None) -> None:
        pair = [statistics.median(each) if each else None for each in (them, us)]
        cells = ["" if each is None else f"{each:.2f}" for each in pair]
        ratio = f"{pair[0] / pair[1]:.1f} x" if pair[0] and pair[1] else ""
        table.add_row(name, *cells, ratio)

    for name in scorers:
        row(name, seconds[name], None)
    row("BLEU + ROUGE-L + CIDEr-D, equal to 1e-9", theirs, seconds["jaxcap"])
    row("tokenizer (Java)", splitting.get("java"), splitting["jaxcap"])
    row("tokenizer, no word met before", None, [first])
    row("from captions to scores", None, whole)
    Console(width=100).print(table)
    print(
        f"Reward of {arguments.batch_size} images x {arguments.samples} samples x "
        f"{arguments.references} references, CIDEr-D and BLEU-4: median "
        f"{statistics.median(rewards):.1f} ms, 90th percentile {np.percentile(rewards, 90):.1f} ms"
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
