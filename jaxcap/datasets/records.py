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
from jaxcap.datasets.sources.findings import some
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
          InputError: the directory cannot be read safely (`open_directory`), or a file is missing,
            damaged, or not the one that the description of the data set means.
        """
        self._directory, self._split = directory, split
        self._builder = builder = open_directory(directory)
        self._files = self._parts()
        self._ends = list(accumulate(part.take for part in self._files))
        counts = {part.filename: part.examples_in_shard for part in self._files}
        self._sizes = {name: _open(Path(name), counts[name], directory) for name in counts}
        self._check_bytes()
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
            self._sizes[part.filename].unpacked_size(
                index - self._ends[number] + part.take + part.skip
            )
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

    def _check_bytes(self) -> None:
        """Compare the size of all records of a whole split with the description.

        This tells shards of as many records apart. Only jaxcap's descriptions always give this
        size; TFDS may give that of the files, or none.

        Raises:
          InputError: they differ.
        """
        info = self._builder.info
        if self._split not in info.splits or "left_out" not in (info.metadata or ()):
            return
        found = sum(file.record_bytes for file in self._sizes.values())
        if found != (expected := int(info.splits[self._split].num_bytes)):
            raise InputError(
                f"{self._directory}: the records of the split '{self._split}' have {found:,} bytes "
                f"in all; the description says {expected:,}. Prepare the data set again, or copy "
                "the folder again. One of these files may be of another split or data set:",
                *some([Path(name).name for name in self._sizes]),
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Records, (self._directory, self._split)

    def __repr__(self) -> str:
        # Without parent directories: Grain compares it on resuming, perhaps on another host.
        return f"Records({'/'.join(self._directory.parts[-2:])!r}, {self._split!r})"


def _open(path: Path, records: int, directory: Path) -> ArrayRecordFile:
    """Open a file that the description of a data set names.

    Raises:
      InputError: it is not there, is damaged, or does not hold that many records.
    """
    problem = ""
    if path.parent != directory:
        problem = "would lie outside the data set"
    elif not os.path.isfile(path):  # array_record would only log it
        problem = "is missing"
    else:
        try:
            file = ArrayRecordFile(path)
            if file.records == records:
                return file
            problem = f"holds {file.records:,} records; the description says {records:,}"
        except ValueError as error:
            problem = f"is damaged: {error}"
    raise InputError(
        f"{path}: this file of the data set {problem}. Prepare the data set again, or copy the "
        "file again"
    )


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
