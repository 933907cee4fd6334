"""Shards: the files of a data set, each with a run of its records, written once and checked.

A shard's bytes depend on its records alone: who wrote it, when, and in how many attempts leaves no
trace. So a shard that was finished before an interruption is as good as a new one, once its
checksum shows that it is what was written then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from jaxcap.errors import InputError
from jaxcap.files import write_text

RECORDS_PER_SHARD = 512
MOST_SHARDS = 256
"""A reader holds all shards of a split open, and many systems allow a process 1,024 files."""

# Groups of one record, for random access (what TFDS writes as well), which is deterministic.
_WRITER_OPTIONS = "group_size:1"

Record = Mapping[str, Any]
"""Feature to its value: bytes, a text, or several texts."""
Make = Callable[[str, Any], Record]
"""The record of an item of a split; an `InputError` says why there can be none."""


class StoppedError(Exception):
    """The work was given up, because other work failed."""


@dataclass(frozen=True)
class Shard:
    """Items `begin` to `end` − 1 of a split: file `number` of `of`."""

    split: str
    number: int
    of: int
    begin: int
    end: int

    def file_name(self, name: str) -> str:
        """What TFDS calls the file, in a data set of that name."""
        return f"{name}-{self.split}.array_record-{self.number:05d}-of-{self.of:05d}"


@dataclass(frozen=True)
class Finished:
    """What became of a shard.

    Attributes:
      records: how many records are in it.
      num_bytes: their size.
      file_bytes: the size of the file.
      checksum: of the file (BLAKE2b).
      unreadable: why items were left out, a message each.
    """

    records: int
    num_bytes: int
    file_bytes: int
    checksum: str
    unreadable: tuple[str, ...]


def plan(counts: Mapping[str, int]) -> list[Shard]:
    """Returns the shards of splits with so many items: of about equal length, none empty."""
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
    """The folder in which a data set comes into being.

    `data/` will be the data set; a shard is in it when it is whole. `finished/` has a note on each
    of these, `parts/` what is being written.
    """

    root: Path
    name: str

    @property
    def data(self) -> Path:
        """What will be the data set."""
        return self.root / "data"

    def make(self) -> None:
        """Makes the folders that are not there yet."""
        for name in ("data", "finished", "parts"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def find(self, shard: Shard) -> Finished | None:
        """Returns what became of the shard; None if it isn't there whole and sound."""
        path = self._path(shard)
        try:
            noted = json.loads(self._note(shard).read_text(encoding="utf-8"))
            noted["unreadable"] = tuple(noted["unreadable"])
            finished = Finished(**noted)
            sound = path.stat().st_size == finished.file_bytes
            return finished if sound and _checksum(path) == finished.checksum else None
        except (OSError, ValueError, KeyError, TypeError):
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
        """Writes the shard, without the items that have no record.

        Args:
          items: its items.
          make: makes their records.
          tick: called after each item.
          stopped: asked before each item whether to give up.

        Raises:
          InputError: it cannot be written (no space, no permission).
          StoppedError: `stopped` said so.
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
        # Another process may be at the same shard, if locks don't work here: both write the same.
        part = self.root / "parts" / f"{path.name}.{os.getpid()}-{threading.get_ident()}"
        try:
            count, num_bytes = _write(part, records())
            finished = Finished(
                count, num_bytes, part.stat().st_size, _checksum(part), tuple(unreadable)
            )
            os.replace(part, path)
            write_text(self._note(shard), json.dumps(dataclasses.asdict(finished)))
        except (OSError, _WritingError) as error:
            raise InputError(
                f"cannot write {path}: {error}; make room there, or choose another --data-dir"
            ) from error
        finally:
            part.unlink(missing_ok=True)
        return finished

    def _path(self, shard: Shard) -> Path:
        return self.data / shard.file_name(self.name)

    def _note(self, shard: Shard) -> Path:
        return self.root / "finished" / f"{shard.split}-{shard.number:05d}.json"


def serialize(record: Record) -> bytes:
    """Returns the record as TFDS stores it, a `tf.train.Example`, always in the same bytes.

    Texts are UTF-8. Lone surrogates, which names of files and JSON may hold, are kept.
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
    """array_record's RuntimeErrors, told from those of other code."""


def _write(path: Path, records: Iterable[bytes]) -> tuple[int, int]:
    """Writes a file that is on the disk when this returns; returns how many records and bytes."""
    path.touch()  # array_record is silent about a folder that isn't there
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    count = num_bytes = 0
    try:
        for record in records:
            _call(writer.write, record)
            count += 1
            num_bytes += len(record)
    except BaseException:
        with contextlib.suppress(RuntimeError):  # what went wrong first is what to tell
            writer.close()
        raise
    _call(writer.close)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    reader = _call(ArrayRecordReader, str(path))
    written = _call(reader.num_records)
    _call(reader.close)
    if written != count:
        raise _WritingError(f"{written} of {count} records arrived")
    return count, num_bytes


def _call(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except RuntimeError as error:
        raise _WritingError(str(error)) from error


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
