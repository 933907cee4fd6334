"""Serialised records in TFDS's files, at random access and without TensorFlow.

An array_record file has an index of its own. A TFRecord file is a row of records, each

    uint64 length, uint32 CRC of the length, length bytes, uint32 CRC of the bytes

(little-endian; tensorflow/core/lib/io/record_writer.h), so that a record's place is found by
walking over those before it. The CRC is that of `data.crc32c`. Those of the lengths are checked.
Those of the bytes are not, for in Python that takes longer than all else; damaged images are found
by decoding them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from array_record.python import array_record_module

from jaxcap.datasets.crc32c import masked_crc32c
from jaxcap.errors import InputError

ARRAY_RECORD, TFRECORD = "array_record", "tfrecord"


def records(path: Path, file_format: str) -> Iterator[tuple[int, bytes]]:
    """Yields the records of a file in its order, each with the place to read it again.

    Raises:
      InputError: the file is damaged, or of another format.
    """
    if file_format == TFRECORD:
        yield from _tfrecords(path)
        return
    reader = _array_record(path)
    count = reader.num_records()
    for begin in range(0, count, 16):  # a few at a time: each may be a large image
        indices = list(range(begin, min(begin + 16, count)))
        yield from zip(indices, _read(reader, indices, path), strict=True)


def read_record(path: Path, file_format: str, place: int) -> bytes:
    """The record at a place that `records` gave.

    Raises:
      InputError: the file is damaged, or no longer the same.
    """
    if file_format == TFRECORD:
        with path.open("rb") as file:
            file.seek(place)
            return _next(file, path) or b""
    (record,) = _read(_array_record(path), [place], path)
    return bytes(record)


@lru_cache(maxsize=64)
def _open(path: Path, changed: int) -> Any:
    return array_record_module.ArrayRecordReader(str(path), "")


def _array_record(path: Path) -> Any:
    # Of a file that is not there, TFDS's reader only logs that.
    return _open(path, path.stat().st_mtime_ns)


def _read(reader: Any, indices: list[int], path: Path) -> list[bytes]:
    try:
        found = list(reader.read(indices))
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path}: damaged, or no array_record file; copy it again: {error}"
        ) from error
    if len(found) != len(indices):
        raise InputError(f"{path}: the array_record file is damaged; copy it again")
    return found


def _tfrecords(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        place = 0
        while (record := _next(file, path)) is not None:
            yield place, record
            place = file.tell()


def _next(file: Any, path: Path) -> bytes | None:
    begin = file.tell()
    head = file.read(12)
    if not head:
        return None
    where = f"{path}, byte {begin}"
    if len(head) < 12:
        raise InputError(f"{where}: the TFRecord file ends within a record; copy it again")
    length, check = struct.unpack("<QI", head)
    if masked_crc32c(head[:8]) != check:
        raise InputError(f"{where}: damaged, or no TFRecord file: a length has the wrong checksum")
    data = file.read(length + 4)
    if len(data) < length + 4:
        raise InputError(f"{where}: the TFRecord file ends within a record; copy it again")
    return bytes(data[:-4])
