"""METEOR and SPICE, which exist only as Java programs.

Denkowski, Lavie 2014, "Meteor Universal", https://aclanthology.org/W14-3348, and Anderson et al.
2016, "SPICE: Semantic Propositional Image Caption Evaluation", https://arxiv.org/abs/1607.08822.
coco-caption's own programs compute them, from the package pycocoevalcap (the extra
`jaxcap[java]`), on the same tokens as the other metrics. METEOR 1.5 is patched to print its
counts, so the score of a set is computed from the sums of counts and is not a mean. SPICE 1.0 is
the mean of the F-scores of the images.

A score that cannot be computed is `Unavailable`, which says what is missing and how to install it.
The other scores are still returned.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from jaxcap.files import write_text
from jaxcap.metrics.checks import check_texts
from jaxcap.metrics.tokenize import tokenize

METEOR, SPICE = "METEOR", "SPICE"

_PERCENT = 100.0
_MODELS = "stanford-corenlp-3.6.0"


@dataclass(frozen=True)
class Measured:
    """A score, ×100."""

    corpus: float
    per_image: dict[Any, float]
    """By image id. SPICE is nan if neither captions nor references hold a proposition."""


@dataclass(frozen=True)
class Unavailable:
    """A score that could not be computed."""

    reason: str
    """The cause and the remedy, in one or two sentences."""


def java_scores(
    candidates: Mapping[Any, str],
    references: Mapping[Any, Sequence[str]],
    *,
    names: Sequence[str] = (METEOR, SPICE),
    timeout: float = 3600.0,
) -> dict[str, Measured | Unavailable]:
    """Score one generated caption per image with METEOR and SPICE.

    Args:
      candidates: image id to the generated caption, as plain text.
      references: image id to the human captions, as plain text, for the same ids.
      names: the metrics to compute.
      timeout: the time limit of each program, in seconds.

    Returns:
      The name of each metric to its scores, ×100, or to the reason why it has none.

    Raises:
      InputError: as in `evaluate_captions`.
    """
    check_texts(candidates, references)
    ids = list(candidates)
    hypotheses = [" ".join(tokenize(candidates[each])) for each in ids]
    targets = [[" ".join(tokenize(text)) for text in references[each]] for each in ids]
    programs = {METEOR: _meteor, SPICE: _spice}
    results: dict[str, Measured | Unavailable] = {}
    for name in names:
        try:
            corpus, per_image = programs[name](_home(), hypotheses, targets, timeout)
        except _Failure as failure:
            results[name] = Unavailable(f"{name} {failure}")
        else:
            results[name] = Measured(
                corpus=_PERCENT * corpus,
                per_image={i: _PERCENT * s for i, s in zip(ids, per_image, strict=True)},
            )
    return results


class _Failure(Exception):
    """A reason for a missing score; the message follows the name of the metric."""


def _home() -> Path:
    """Return the folder of pycocoevalcap, if that and Java are installed."""
    if shutil.which("java") is None:
        raise _Failure(
            "needs Java, but found no `java` on the PATH. Install a Java runtime "
            "(Debian: apt install default-jre-headless)."
        )
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise _Failure("needs the package pycocoevalcap: pip install 'jaxcap[java]'.")
    return Path(package.submodule_search_locations[0])


def _program(path: Path) -> Path:
    if not path.is_file():
        raise _Failure(
            f"needs {path}, which is missing from pycocoevalcap: "
            "pip install --force-reinstall pycocoevalcap."
        )
    return path


def _command(*arguments: str) -> list[str]:
    # In some locales Java writes 0,5 for 0.5 or reads "é" as "?".
    return ["java", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.region=US", *arguments]


def _environment() -> dict[str, str]:
    return os.environ | {"LC_ALL": "C"}


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    told = [line for line in lines if not line.startswith(("\t", "    at "))]
    return f": {told[-1]}" if told else ""


class _Conversation:
    """A running program that answers lines with lines, but may also exit or hang."""

    def __init__(self, command: list[str], folder: Path, timeout: float, errors: IO[bytes]) -> None:
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._errors = errors
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        # Read in a thread, since a full pipe would block both the program and us.
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def __enter__(self) -> _Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # the program exited with unread input
            self._process.stdin.close()
        self._process.stdout.close()

    def ask(self, lines: Sequence[str], answers: int) -> list[str]:
        """Send lines and return the next `answers` lines of output."""
        text = "".join(f"{line}\n" for line in lines).encode()
        # Write in a thread as well, since a hanging program may not read.
        threading.Thread(target=self._send, args=(text,), daemon=True).start()
        return [self._answer() for _ in range(answers)]

    def _send(self, text: bytes) -> None:
        assert self._process.stdin is not None
        # If the program has exited, `_answer` reports it.
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(text)
            self._process.stdin.flush()

    def _answer(self) -> str:
        try:
            line = self._lines.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except queue.Empty:
            raise _Failure(f"was stopped after {self._timeout:.0f} s without an answer.") from None
        if line is None:
            status = self._process.wait()
            raise _Failure(f"stopped early, with status {status}{_last_line(self._errors)}")
        return line.decode(errors="replace").strip()


def _meteor(
    home: Path, hypotheses: Sequence[str], targets: Sequence[Sequence[str]], timeout: float
) -> tuple[float, list[float]]:
    program = _program(home / "meteor" / "meteor-1.5.jar")
    _program(home / "meteor" / "data" / "paraphrase-en.gz")
    command = _command(
        "-Xmx2G", "-jar", str(program), "-", "-", "-stdio", "-l", "en", "-norm"
    )  # fmt: skip
    lines = [
        " ||| ".join(("SCORE", *references, hypothesis))
        for hypothesis, references in zip(hypotheses, targets, strict=True)
    ]
    with (
        tempfile.TemporaryFile() as errors,
        _Conversation(command, program.parent, timeout, errors) as meteor,
    ):
        counts = meteor.ask(lines, len(lines))
        # One score per image, then the score of the set.
        answers = meteor.ask([" ||| ".join(("EVAL", *counts))], len(lines) + 1)
    try:
        *per_image, corpus = (float(answer) for answer in answers)
    except ValueError as error:
        raise _Failure(f"answered with something other than numbers ({error}).") from error
    return corpus, per_image


def _spice(
    home: Path, hypotheses: Sequence[str], targets: Sequence[Sequence[str]], timeout: float
) -> tuple[float, list[float]]:
    program = _program(home / "spice" / "spice-1.0.jar")
    for name in (f"{_MODELS}.jar", f"{_MODELS}-models.jar"):
        if not (program.parent / "lib" / name).is_file():
            raise _Failure(
                f"needs {name} in {program.parent / 'lib'}, which pycocoevalcap does not include: "
                'python -c "from pycocoevalcap.spice.get_stanford_models import *; '
                'get_stanford_models()" downloads it (400 MB).'
            )
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        asked, answered = Path(folder) / "asked.json", Path(folder) / "answered.json"
        write_text(
            asked,
            json.dumps(
                [
                    {"image_id": i, "test": hypothesis, "refs": references}
                    for i, (hypothesis, references) in enumerate(
                        zip(hypotheses, targets, strict=True)
                    )
                ]
            ),
        )
        # SPICE's serialiser accesses private fields, which Java 9 and newer forbid by default.
        opened = [
            f"--add-opens=java.base/{package}=ALL-UNNAMED"
            for package in ("java.lang", "java.math", "java.util", "java.util.concurrent",
                            "java.net", "java.text")
        ]  # fmt: skip
        command = _command(
            "-XX:+IgnoreUnrecognizedVMOptions", *opened,
            "-Xmx8G", "-jar", str(program), str(asked), "-out", str(answered), "-silent",
        )  # fmt: skip
        try:
            ended = subprocess.run(
                command,
                cwd=program.parent,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _Failure(f"was stopped after {timeout:.0f} s.") from None
        if ended.returncode:
            raise _Failure(f"stopped early, with status {ended.returncode}{_last_line(errors)}")
        try:
            found = {
                each["image_id"]: float(each["scores"]["All"]["f"])
                for each in json.loads(answered.read_text(encoding="utf-8"))
            }
            per_image = [found[i] for i in range(len(hypotheses))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _Failure(f"wrote no readable scores ({error!r}).") from error
    # Like coco-caption: if one image has no score (nan), neither has the set.
    return math.fsum(per_image) / len(per_image), per_image
