"""Build and read a million small records: time, size, and memory.

    python benchmarks/data.py [--records 1000000] [--workers 2] [--reads 50000] [--steps 1000]

A record holds a JPEG of 32×32 pixels, one of 256 drawn at the start, and five captions with the
record's number. The records are built as by `jaxcap prepare`, which decodes every image. They are
then read in random order, one at a time, and a sample is compared with the input. Finally, as in
training, all captions are split, counted, and encoded, and batches of 64 decoded images are made in
the order of an epoch. Peak memory is that of the process and of the largest worker.
"""

from __future__ import annotations

import functools
import io
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from jaxcap.config import DataConfig
from jaxcap.data.captions import Captions
from jaxcap.data.pipeline import TrainingSet, tokenised_captions, training_batches
from jaxcap.datasets.building import Recipe, build
from jaxcap.datasets.records import Records
from jaxcap.datasets.stored_images import to_stored
from jaxcap.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Arguments:
    """Time building and reading many small records."""

    records: int = 1_000_000
    workers: int = 2
    reads: int = 50_000
    steps: int = 1000
    """Number of batches of 64 images."""
    folder: Path | None = None
    """Folder to build in; by default, a temporary one."""


@functools.cache
def _jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def make(split: str, index: int) -> dict[str, Any]:
    """Return the record of a number."""
    name = f"{split}-{index:07d}"
    return {
        "image": to_stored(_jpeg(index % 256), name=name),
        "captions": [f"caption {n} of the picture with the number {index}" for n in range(5)],
        "image_id": name,
    }


def main(arguments: Arguments) -> None:
    """Build, read, and print."""
    recipe = Recipe(
        name="many",
        splits={"train": range(arguments.records)},
        make=make,
        fingerprint=str(arguments.records),
        description="Many small records.",
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        begin = time.perf_counter()
        path = build(recipe, Path(folder), workers=arguments.workers)
        seconds = time.perf_counter() - begin
        size = sum(file.stat().st_size for file in path.iterdir())
        print(
            f"built {arguments.records:,} records in {seconds:.1f} s with {arguments.workers} "
            f"processes: {arguments.records / seconds:,.0f} records/s, {size / 1e9:.2f} GB in "
            f"{len(list(path.glob('*array_record*')))} shards"
        )
        print(
            f"peak memory {_peak(resource.RUSAGE_SELF)}, worker {_peak(resource.RUSAGE_CHILDREN)}"
        )

        begin = time.perf_counter()
        records = Records(path, "train")
        print(f"opened in {time.perf_counter() - begin:.2f} s")
        numbers = np.random.default_rng(0).integers(0, len(records), arguments.reads)
        begin = time.perf_counter()
        for number in numbers:
            records[int(number)]
        seconds = time.perf_counter() - begin
        print(
            f"read {arguments.reads:,} in random order: {arguments.reads / seconds:,.0f} records/s"
        )
        print(f"peak memory {_peak(resource.RUSAGE_SELF)}")
        assert all(records[int(i)] == make("train", int(i)) for i in numbers[:1000])
        _train(records, arguments.steps)


def _train(records: Records, steps: int) -> None:
    config = DataConfig(image_size=32)
    begin = time.perf_counter()
    texts = tokenised_captions(records)
    vocabulary = Vocabulary.from_counts(texts.counts(), min_count=config.min_count)
    captions = Captions.encode(texts, vocabulary, config=config)
    seconds = time.perf_counter() - begin
    arrays = [array for array in vars(captions.rows).values() if isinstance(array, np.ndarray)]
    print(
        f"captions encoded in {seconds:.1f} s, {len(records) / seconds:,.0f} records/s; "
        f"{sum(array.nbytes for array in arrays) / 1e6:,.0f} MB in memory"
    )
    print(f"peak memory {_peak(resource.RUSAGE_SELF)}")
    batches = training_batches(
        [TrainingSet(records, captions)],
        config=config,
        batch_size=64,
        seed=0,
        first_step=0,
        steps=steps,
    )
    begin = time.perf_counter()
    next(batches)
    print(f"first batch after {time.perf_counter() - begin:.2f} s")
    begin = time.perf_counter()
    count = sum(len(batch.numbers) for batch in batches)
    print(f"batches: {count / (time.perf_counter() - begin):,.0f} records/s")
    print(f"peak memory {_peak(resource.RUSAGE_SELF)}")


def _peak(who: int) -> str:
    return f"{resource.getrusage(who).ru_maxrss / 1024:,.0f} MB"


if __name__ == "__main__":
    main(tyro.cli(Arguments))
