"""Measure the time to write a report, and its size.

    python benchmarks/report.py                     # 5,000 drawn images of 500×375
    python benchmarks/report.py --photographs DIR   # JPEG files of a folder, repeated

Every row has five captions with probabilities, attention over 7×7 positions for ten words, five
references, and six scores, as after `evaluate.py` on Flickr8k.
"""

from __future__ import annotations

import io
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from jaxcap.report import ReportCaption, ReportRow, write_report

TEXT = "a brown dog runs through the tall green grass outside"
SCORES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")


@dataclass(frozen=True)
class Arguments:
    """Write one report and print its time."""

    images: int = 5000
    photographs: Path | None = None
    keep: Path | None = None
    """File for the report; by default, it is deleted."""


def drawn(number: int) -> list[bytes]:
    """Return JPEGs as detailed as photographs: noise at several scales."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(number):
        total = np.zeros((375, 500, 3))
        for side in (4, 12, 40, 120):
            noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
            total += np.asarray(noise.resize((500, 375), Image.Resampling.BICUBIC)) / 4
        buffer = io.BytesIO()
        Image.fromarray(total.astype(np.uint8)).save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    return pictures


def rows(pictures: list[bytes], number: int) -> Iterator[ReportRow]:
    """Return rows with random numbers and similar texts."""
    rng = np.random.default_rng(0)
    words = len(TEXT.split())
    for i, picture in zip(range(number), itertools.cycle(pictures), strict=False):
        attention = rng.integers(0, 256, (words, 49), np.uint8)
        log_probs = list(-rng.random(words + 1))
        best = ReportCaption(TEXT, sum(log_probs), log_probs, attention)
        others = [ReportCaption(TEXT, -9.0 - n) for n in range(4)]
        scores = dict(zip(SCORES, 100 * rng.random(len(SCORES)), strict=True))
        yield ReportRow(f"{i}.jpg", picture, [best, *others], [TEXT] * 5, scores)


def main(arguments: Arguments) -> None:
    """Print seconds, processor seconds, and megabytes."""
    if arguments.photographs is None:
        pictures = drawn(200)
    else:
        files = sorted(arguments.photographs.glob("*.jpg"))[: arguments.images]
        pictures = [file.read_bytes() for file in files]
    with tempfile.TemporaryDirectory() as directory:
        path = arguments.keep or Path(directory) / "report.html"
        begin, busy = time.perf_counter(), time.process_time()
        write_report(
            path,
            title="Benchmark",
            rows=rows(pictures, arguments.images),
            count=arguments.images,
        )
        seconds, busy = time.perf_counter() - begin, time.process_time() - busy
        print(
            f"{arguments.images} images: {seconds:.1f} s ({busy:.1f} s of processor time, "
            f"{os.cpu_count()} cores), {path.stat().st_size / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
