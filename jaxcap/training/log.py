"""What a training measures of itself, and the file it is written to."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcap import hosts
from jaxcap.evaluation import LogLine, read_metrics
from jaxcap.files import write_text
from jaxcap.steps import StepMetrics


class Meter:
    """Sums over steps; reading them waits for the device, so it is done now and then."""

    def __init__(self, done: int, note: dict[str, Any] | None = None):
        """Begins after `done` steps.

        Args:
          note: what `note` gave at this step of an earlier session, which is gone on with.
        """
        note = note or {}
        self._done = done
        self._pending: list[StepMetrics] = []
        # In the device's precision, so that a line's sum does not depend on where sessions end.
        rows: list[list[Any]] = [list(map(np.float32, row)) for row in note.get("steps", [])]
        self._read = [StepMetrics(*row) for row in rows]
        self._loss, self._words = note.get("loss", 0.0), note.get("words", 0.0)
        self._captions = self._images = 0
        self._since = time.monotonic()

    def add(self, metrics: StepMetrics, tokens: Any) -> None:
        """Notes a step, whose metrics may still be in the making."""
        self._done += 1
        self._pending.append(metrics)
        # The shares of the other processes have as many images, and about as many captions.
        _, processes = hosts.share()
        self._images += tokens.shape[0] * processes
        self._captions += int(np.any(tokens != 0, axis=-1).sum()) * processes

    def wait(self) -> list[tuple[int, StepMetrics]]:
        """Waits for the steps not waited for yet; gives their numbers, from 1, and metrics."""
        read: list[StepMetrics] = jax.device_get(self._pending)
        self._read += read
        self._pending = []
        return list(enumerate(read, start=self._done - len(read) + 1))

    def line(self) -> LogLine:
        """The figures of all steps since the last line."""
        self.wait()
        loss = float(sum(m.loss for m in self._read))
        words = float(sum(m.words for m in self._read))
        now = time.monotonic()
        seconds = max(1e-9, now - self._since)
        line: LogLine = {
            "step": self._done,
            "loss": loss / max(1.0, words),
            "grad_norm": float(self._read[-1].grad_norm),
            "images_per_s": self._images / seconds,
            "captions_per_s": self._captions / seconds,
        }
        self._loss += loss
        self._words += words
        self._read, self._captions, self._images, self._since = [], 0, 0, now
        return line

    def epoch_loss(self) -> float:
        """Mean loss per word of all lines since the epoch began."""
        return self._loss / max(1.0, self._words)

    def note(self) -> dict[str, Any]:
        """All that a later session needs to go on as if there had been no other, in JSON."""
        self.wait()
        rows = [[float(value) for value in metrics] for metrics in self._read]
        return {"steps": rows, "loss": self._loss, "words": self._words}


class Log:
    """`metrics.jsonl`: one line of training every few steps, one of evaluation every epoch."""

    def __init__(self, path: Path, step: int, *, split: str, scored: bool = True):
        """Keeps what happened up to `step`; later lines belong to a session that was lost.

        Args:
          split: the one that is evaluated.
          scored: whether evaluation after `step` is among what happened.
        """
        self._path, self._split = path, split
        kept = [
            line
            for line in read_metrics(path)
            if line["step"] < step or (line["step"] == step and (scored or not self._scores(line)))
        ]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        if hosts.is_first():
            write_text(path, text)
        self._lines = kept
        self._begin = time.monotonic() - (kept[-1]["elapsed_s"] if kept else 0.0)

    @property
    def elapsed(self) -> float:
        """Seconds spent on this run, over all its sessions."""
        return time.monotonic() - self._begin

    def write(self, line: LogLine) -> None:
        line = line | {"elapsed_s": round(self.elapsed, 2)}
        self._lines.append(line)
        if hosts.is_first():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def evaluations(self) -> list[LogLine]:
        """The lines that carry scores of the split, their names without it."""
        return [
            {name.removeprefix(f"{self._split}/"): value for name, value in line.items()}
            for line in self._lines
            if self._scores(line)
        ]

    def _scores(self, line: LogLine) -> bool:
        return any(name.startswith(f"{self._split}/") for name in line)


def stalled(scores: Sequence[float], patience: int) -> bool:
    """Whether `patience` epochs have passed since the best score (0: never)."""
    if not patience or not scores:
        return False
    return len(scores) - 1 - scores.index(max(scores)) >= patience
