"""Metrics of training, and the file `metrics.jsonl`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcap.devices import hosts
from jaxcap.evaluation import LogLine, read_metrics
from jaxcap.files import naming, no_link, write_text
from jaxcap.files.json_data import from_dict
from jaxcap.messages.errors import InputError, counted
from jaxcap.training.step.train_step import StepMetrics


@dataclass(frozen=True)
class _Sums:
    """The return value of `Meter.note`."""

    steps: tuple[tuple[float, ...], ...] = ()
    loss: float = 0.0
    words: float = 0.0


class Meter:
    """Sums metrics over steps. Reading them waits for the device, so the loop reads rarely."""

    def __init__(
        self, done: int, note: dict[str, Any] | None = None, *, where: str | Path = "note"
    ):
        """Start after `done` steps.

        Args:
          note: the return value of `note` at this step in an earlier session, to continue it.
          where: the place of the note, for error messages.

        Raises:
          InputError: the note is damaged.
        """
        sums = from_dict(_Sums, note or {}, where=str(where))
        if bad := [row for row in sums.steps if len(row) != len(StepMetrics._fields)]:
            raise InputError(
                f"{where}.steps: a row of {counted(len(bad[0]), 'number')}; expected "
                f"{len(StepMetrics._fields)}."
            )
        self._done = done
        self._pending: list[StepMetrics] = []
        # float32, as on the device, so that sums do not depend on where sessions end.
        self._read = [StepMetrics(*map(np.float32, row)) for row in sums.steps]  # type: ignore[arg-type]
        self._loss, self._words = sums.loss, sums.words
        self._captions = self._images = self._steps = 0
        self._since = time.monotonic()
        # The part of the epoch that ran in this session.
        self._epoch_images, self._epoch_seconds, self._epoch_waited = 0, 0.0, 0.0

    def add(self, metrics: StepMetrics, tokens: Any) -> None:
        """Add a step, whose metrics the device may still be computing."""
        self._done += 1
        self._steps += 1
        self._pending.append(metrics)
        # Other processes have as many images, and about as many captions.
        _, processes = hosts.share()
        self._images += tokens.shape[0] * processes
        self._captions += int(np.any(tokens != 0, axis=-1).sum()) * processes

    def wait(self) -> list[tuple[int, StepMetrics]]:
        """Wait for all added steps; return the step number (from 1) and metrics of each new one."""
        read: list[StepMetrics] = jax.device_get(self._pending)
        self._read += read
        self._pending = []
        return list(enumerate(read, start=self._done - len(read) + 1))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside the `with` statement, such as for saving."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def line(self, waited: float = 0.0) -> LogLine:
        """Return the metrics of all steps since the last line.

        Args:
          waited: seconds that devices waited for data.
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
            line |= self._sample_metrics(words, self._steps / seconds)
        self._loss += loss
        self._words += words
        self._epoch_images += self._images
        self._epoch_seconds += seconds
        self._epoch_waited += waited
        self._read, self._captions, self._images, self._steps, self._since = [], 0, 0, 0, now
        return line

    def _sample_metrics(self, words: float, steps_per_s: float) -> LogLine:
        """Return means over sampled captions; lengths are in words, without `<eos>`."""
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
        """Return the epoch's mean loss per word, over all sessions, and this session's speed."""
        line: LogLine = {"loss": self._loss / max(1.0, self._words)}
        if self._epoch_images:
            line["images_per_s"] = self._epoch_images / self._epoch_seconds
            line["waiting_share"] = self._epoch_waited / self._epoch_seconds
        return line

    def note(self) -> dict[str, Any]:
        """Return the meter as JSON, for a later session to continue from."""
        self.wait()
        rows = [[float(value) for value in metrics] for metrics in self._read]
        return {"steps": rows, "loss": self._loss, "words": self._words}


def figures(line: LogLine) -> str:
    """Format a line for the terminal, most important first: narrow terminals cut the end."""
    parts = [
        f"loss {line['loss']:.3f}{reward_note(line)}",
        f"lr {line['learning_rate']:.2g}",
        f"{line['images_per_s']:.1f} images/s",
        f"{line['captions_per_s']:.0f} captions/s",
        f"waiting {line['waiting_share']:.0%}",
    ]
    if "device_peak_gib" in line:
        limit = f" of {line['device_limit_gib']:.1f}" if "device_limit_gib" in line else ""
        parts.append(f"device {line['device_peak_gib']:.1f}{limit} GiB")
    elif "process_peak_gib" in line:
        parts.append(f"process {line['process_peak_gib']:.1f} GiB")
    return "  ".join(parts)


def reward_note(line: LogLine) -> str:
    """Format the metrics of sampled captions; return an empty string if there are none."""
    if "reward" not in line:
        return ""
    return (
        f"  reward {line['reward']:.3f} (baseline {line['baseline']:.3f})  "
        f"{line['ended']:.0%} ended  {line['caption_words']:.1f} words"
    )


class Log:
    """The file `metrics.jsonl`: a training line every few steps, an evaluation line every epoch."""

    def __init__(self, path: Path, step: int, *, split: str, scored: bool = True):
        """Open the file, and drop the lines after `step`, which a lost session wrote.

        Args:
          split: the split of the evaluation lines.
          scored: whether to keep the evaluation line of `step` itself.
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
        self._begin = time.monotonic() - (kept[-1].get("elapsed_s", 0.0) if kept else 0.0)

    @property
    def elapsed(self) -> float:
        """The seconds spent on this run, over all sessions."""
        return time.monotonic() - self._begin

    def write(self, line: LogLine) -> None:
        """Append a line, with the elapsed time."""
        line = line | {"elapsed_s": round(self.elapsed, 2)}
        self._lines.append(line)
        if hosts.is_first():
            with (
                naming(self._path),
                open(self._path, "a", encoding="utf-8", opener=no_link) as file,
            ):
                file.write(json.dumps(line) + "\n")

    @property
    def lines(self) -> tuple[LogLine, ...]:
        """All lines of the file."""
        return tuple(self._lines)

    def evaluations(self) -> list[LogLine]:
        """Return the evaluation lines, with the split removed from the names of scores."""
        return [
            {name.removeprefix(f"{self._split}/"): value for name, value in line.items()}
            for line in self._lines
            if self._scores(line)
        ]

    def _scores(self, line: LogLine) -> bool:
        return any(name.startswith(f"{self._split}/") for name in line)
