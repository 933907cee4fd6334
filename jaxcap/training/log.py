"""What a training measures of itself, and the file it is written to."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcap.devices import hosts
from jaxcap.evaluation import LogLine, read_metrics
from jaxcap.files import write_text
from jaxcap.training.step.train_step import StepMetrics


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
        self._captions = self._images = self._steps = 0
        self._since = time.monotonic()
        # Of the epoch, as far as this session has seen it.
        self._epoch_images, self._epoch_seconds, self._epoch_waited = 0, 0.0, 0.0

    def add(self, metrics: StepMetrics, tokens: Any) -> None:
        """Notes a step, whose metrics may still be in the making."""
        self._done += 1
        self._steps += 1
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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within, such as saving, does not count as time of training."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def line(self, waited: float = 0.0) -> LogLine:
        """The figures of all steps since the last line.

        Args:
          waited: seconds in which devices had no data.
        """
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
            "waiting_share": waited / seconds,
        }
        if any(m.samples for m in self._read):
            line |= self._of_samples(words, self._steps / seconds)
        self._loss += loss
        self._words += words
        self._epoch_images += self._images
        self._epoch_seconds += seconds
        self._epoch_waited += waited
        self._read, self._captions, self._images, self._steps, self._since = [], 0, 0, 0, now
        return line

    def _of_samples(self, words: float, steps_per_s: float) -> LogLine:
        """Means over sampled captions; their lengths are in words, `<eos>` not counted."""
        samples, reward, baseline, ended = (
            float(sum(column))
            for column in zip(
                *((m.samples, m.reward, m.baseline, m.ended) for m in self._read), strict=True
            )
        )
        return {
            "captions_per_s": samples / len(self._read) * steps_per_s,
            "reward": reward / samples,
            "baseline": baseline / samples,
            "ended": ended / samples,
            "caption_words": (words - ended) / samples,
        }

    def epoch(self) -> LogLine:
        """The mean loss per word of all lines since the epoch began; and the speed and the waiting
        of those that this session saw, if it saw any."""
        line: LogLine = {"loss": self._loss / max(1.0, self._words)}
        if self._epoch_images:
            line["images_per_s"] = self._epoch_images / self._epoch_seconds
            line["waiting_share"] = self._epoch_waited / self._epoch_seconds
        return line

    def note(self) -> dict[str, Any]:
        """All that a later session needs to go on as if there had been no other, in JSON."""
        self.wait()
        rows = [[float(value) for value in metrics] for metrics in self._read]
        return {"steps": rows, "loss": self._loss, "words": self._words}


def figures(line: LogLine) -> str:
    """A line for people, the weightiest first: a narrow terminal cuts off the rest."""
    parts = [
        f"loss {line['loss']:.3f}{reward_note(line)}",
        f"lr {line['learning_rate']:.2g}",
        f"{line['images_per_s']:.1f} images/s",
        f"{line['captions_per_s']:.0f} captions/s",
        f"waiting {line['waiting_share']:.0%}",
    ]
    if "device_peak_gib" in line:
        of = f" of {line['device_limit_gib']:.1f}" if "device_limit_gib" in line else ""
        parts.append(f"device {line['device_peak_gib']:.1f}{of} GiB")
    elif "process_peak_gib" in line:
        parts.append(f"process {line['process_peak_gib']:.1f} GiB")
    return "  ".join(parts)


def reward_note(line: LogLine) -> str:
    """What a line says of sampled captions, for people; nothing where there are none."""
    if "reward" not in line:
        return ""
    return (
        f"  reward {line['reward']:.3f} (baseline {line['baseline']:.3f})  "
        f"{line['ended']:.0%} ended  {line['caption_words']:.1f} words"
    )


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

    @property
    def lines(self) -> tuple[LogLine, ...]:
        """All that the file holds."""
        return tuple(self._lines)

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
