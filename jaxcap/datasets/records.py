"""Read the records of a prepared data set with random access."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxcap.datasets.sources.array_record_file import ArrayRecordFile
from jaxcap.datasets.sources.tfds_opening import open_directory
from jaxcap.messages.errors import InputError


class Records:
    """The records of one split of a prepared data set, by index.

    A record is a dict of `image` (an encoded image file, bytes), `captions` (list of str),
    `image_id` (str) and any further texts (str). A data set of text alone has no `image`. Reading
    is thread-safe. A pickled copy opens the files again.
    """

    def __init__(self, directory: Path, split: str) -> None:
        """Open a split.

        Args:
          directory: the directory of a prepared data set, with its version.
          split: a split in TFDS's notation, such as `"train[:10%]"`.

        Raises:
          InputError: the directory cannot be read safely (`open_directory`), or a file is missing.
        """
        self._directory, self._split = directory, split
        self._builder = builder = open_directory(directory)
        self._files = self._parts()
        self._ends = list(accumulate(part.take for part in self._files))
        self._sizes: dict[str, ArrayRecordFile] = {}
        for part in self._files:
            if problem := _problem(Path(part.filename), part.examples_in_shard, directory):
                raise InputError(
                    f"{part.filename}: this file of the data set {problem}. Prepare the data set "
                    "again, or copy the file again"
                )
        encoded = {"image": tfds.decode.SkipDecoding()}
        self._source = builder.as_data_source(
            split=split, decoders=encoded if "image" in builder.info.features else None
        )

    @property
    def identity(self) -> tuple[Any, ...]:
        """A value that changes with the files, their sizes and times, and the slices read of
        them."""
        stats = ((part, os.stat(part.filename)) for part in self._files)
        return tuple((part, stat.st_size, stat.st_mtime_ns) for part, stat in stats)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = index.__index__()
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        index %= len(self)
        number = bisect_right(self._ends, index)
        part = self._files[number]
        try:
            if (sizes := self._sizes.get(part.filename)) is None:
                sizes = self._sizes[part.filename] = ArrayRecordFile(Path(part.filename))
            sizes.unpacked_size(index - self._ends[number] + part.take + part.skip)
            return _to_record(self._source[index])
        except InputError:
            raise
        except Exception as error:  # array_record, protobuf and TFDS raise a dozen types
            raise InputError(
                f"{part.filename}: this file of the data set is damaged: record {index} of "
                f"the split '{self._split}' cannot be read ({type(error).__name__}). Prepare the "
                "data set again, or copy the file again"
            ) from error

    def _parts(self) -> list[Any]:
        """Return TFDS's `FileInstruction`s: the files of the split, and the records of each."""
        split = self._builder.info.splits[self._split]
        try:
            parts: list[Any] = split.file_instructions
        except Exception as error:  # TFDS builds file names from what its JSON says
            raise InputError(
                f"{self._directory}: the description of the data set is damaged: {error}. Prepare "
                "the data set again, or copy the folder again"
            ) from error
        return parts

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Records, (self._directory, self._split)

    def __repr__(self) -> str:
        # Without parent directories: Grain compares it on resuming, perhaps on another host.
        return f"Records({'/'.join(self._directory.parts[-2:])!r}, {self._split!r})"


def _problem(file: Path, records: int, directory: Path) -> str:
    """Say what is wrong with a file that the description of a data set names, if anything is."""
    if file.parent != directory:
        return "would lie outside the data set"
    if not os.path.isfile(file):  # array_record would only log it
        return "is missing"
    if file.stat().st_size < records:
        return f"cannot hold {records:,} records, as the description says"
    return ""


def _to_record(features: dict[str, Any]) -> dict[str, Any]:
    return {
        key: bytes(value) if key == "image" else _to_text(value) for key, value in features.items()
    }


def _to_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogatepass")  # as shards.serialize encodes it
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [_to_text(item) for item in value]
    return value
