"""Write and verify shards: the files of a data set, each with a range of its records.

The bytes of a shard depend only on its records, not on the process, the time or the number of
attempts. A shard that was finished before an interruption is therefore as good as a new one, once
its checksum has been verified.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from jaxcap.files import is_disk_full, replacing, write_text
from jaxcap.files.json_data import from_dict, read_json
from jaxcap.messages.errors import InputError

RECORDS_PER_SHARD = 512
MOST_SHARDS = 256
"""A reader keeps all shards of a split open, and many systems allow 1,024 files per process."""

# One record per group: deterministic, and the best for random access. TFDS writes the same.
_WRITER_OPTIONS = "group_size:1"

Record = Mapping[str, Any]
"""The value of each feature: bytes, a text, or several texts."""
Make = Callable[[str, Any], Record]
"""Makes the record of an item of a split, or raises an `InputError` that says why it cannot."""


class StoppedError(Exception):
    """Writing was stopped because another worker failed."""


@dataclass(frozen=True)
class Shard:
    """File `number` of `of` of a split, with the items `begin` to `end` − 1."""

    split: str
    number: int
    of: int
    begin: int
    end: int

    def file_name(self, name: str) -> str:
        """Return the file name that TFDS expects in a data set of that name."""
        return f"{name}-{self.split}.array_record-{self.number:05d}-of-{self.of:05d}"


@dataclass(frozen=True)
class Finished:
    """The result of writing a shard.

    Attributes:
      records: the number of records.
      num_bytes: the total size of the records.
      file_bytes: the size of the file.
      checksum: the BLAKE2b of the file.
      unreadable: one message for each item that was left out.
    """

    records: int
    num_bytes: int
    file_bytes: int
    checksum: str
    unreadable: tuple[str, ...]


def plan(counts: Mapping[str, int]) -> list[Shard]:
    """Divide splits into shards of about equal length, given the number of items of each split."""
    shards = []
    for split, count in counts.items():
        if not count:
            continue
        of = min(math.ceil(count / RECORDS_PER_SHARD), MOST_SHARDS)
        bounds = [count * i // of for i in range(of + 1)]
        shards += [Shard(split, i, of, bounds[i], bounds[i + 1]) for i in range(of)]
    return shards


@dataclass(frozen=True)
class Workplace:
    """The working folder of a build.

    `data/` becomes the data set and holds complete shards only. `finished/` holds the result of
    each of them, and `parts/` the shards that are being written.
    """

    root: Path
    name: str

    @property
    def data(self) -> Path:
        """The folder that becomes the data set."""
        return self.root / "data"

    def make(self) -> None:
        """Create the folders."""
        for name in ("data", "finished", "parts"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def has(self, shard: Shard) -> bool:
        """Return whether a shard was finished; `find` also verifies it."""
        return self._note(shard).exists() and self._path(shard).exists()

    def find(self, shard: Shard) -> Finished | None:
        """Return the result of a finished shard; None if it is missing or damaged."""
        path = self._path(shard)
        try:
            note = self._note(shard)
            finished = from_dict(Finished, read_json(note, "note"), where=str(note))
            sound = path.stat().st_size == finished.file_bytes
            return finished if sound and _checksum(path) == finished.checksum else None
        except (OSError, InputError):
            return None

    def write(
        self,
        shard: Shard,
        items: Sequence[Any],
        make: Make,
        *,
        tick: Callable[[], None],
        stopped: Callable[[], bool],
    ) -> Finished:
        """Write a shard, leaving out items for which `make` raises an `InputError`.

        Args:
          shard: the shard.
          items: the items of the shard.
          make: makes the record of an item.
          tick: called after each item.
          stopped: called before each item; returns True to stop.

        Raises:
          InputError: the file cannot be written (no space, no permission).
          StoppedError: `stopped` returned True.
        """
        unreadable: list[str] = []

        def records() -> Iterable[bytes]:
            for item in items:
                if stopped():
                    raise StoppedError
                try:
                    record = make(shard.split, item)
                except InputError as error:
                    unreadable.append(str(error))
                else:
                    yield serialize(record)
                tick()

        path = self._path(shard)
        # Where locks do not work, another process may write the same shard, with the same bytes.
        try:
            with replacing(path, folder=self.root / "parts") as part:
                count, num_bytes = _write(part, records())
                finished = Finished(
                    count, num_bytes, part.stat().st_size, _checksum(part), tuple(unreadable)
                )
            write_text(self._note(shard), json.dumps(dataclasses.asdict(finished)))
        except (OSError, _WritingError) as error:
            space = "free some space there, or " if is_disk_full(error) else ""
            raise InputError(
                f"cannot write {path}: {error}; {space}choose another --data-dir"
            ) from error
        return finished

    def _path(self, shard: Shard) -> Path:
        return self.data / shard.file_name(self.name)

    def _note(self, shard: Shard) -> Path:
        return self.root / "finished" / f"{shard.split}-{shard.number:05d}.json"


def serialize(record: Record) -> bytes:
    """Serialise a record as TFDS does, as a `tf.train.Example`, deterministically.

    Texts are UTF-8. Lone surrogates, which file names and JSON may contain, are kept.
    """
    features = {
        key: tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=_to_bytes(value)))
        for key, value in record.items()
    }
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
    return bytes(example.SerializeToString(deterministic=True))


def _to_bytes(value: bytes | str | Iterable[str]) -> list[bytes]:
    if isinstance(value, bytes):
        return [value]
    texts = [value] if isinstance(value, str) else value
    return [text.encode("utf-8", "surrogatepass") for text in texts]


class _WritingError(Exception):
    """A RuntimeError of array_record, distinguished from those of other code."""


def _write(path: Path, records: Iterable[bytes]) -> tuple[int, int]:
    """Write and sync a file; return the number of records and their total size."""
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    count = num_bytes = 0
    try:
        for record in records:
            _call(writer.write, record)
            count += 1
            num_bytes += len(record)
    except BaseException:
        with contextlib.suppress(RuntimeError):  # report the first error
            writer.close()
        raise
    _call(writer.close)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    reader = _call(ArrayRecordReader, str(path))
    written = _call(reader.num_records)
    _call(reader.close)
    if written != count:
        raise _WritingError(f"only {written} of {count} records were written")
    return count, num_bytes


def _call(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except RuntimeError as error:
        raise _WritingError(str(error)) from error


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
