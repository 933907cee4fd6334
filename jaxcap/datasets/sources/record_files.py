"""Read serialised records from TFDS's files, with random access and without TensorFlow.

An array_record file has its own index. A TFRecord file is a sequence of records, each

    uint64 length, uint32 CRC of the length, length bytes, uint32 CRC of the bytes

(little-endian; tensorflow/core/lib/io/record_writer.h), so finding a record means walking over
those before it. The CRC is `jaxcap.files.crc32c`. Only the CRC of the length is checked: in
Python, checking the bytes would take longer than everything else. Damaged images are found when
they are decoded.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from array_record.python import array_record_module

from jaxcap.datasets.sources.array_record_file import ArrayRecordFile
from jaxcap.files import open_file
from jaxcap.files.crc32c import masked_crc32c
from jaxcap.messages.errors import InputError

ARRAY_RECORD, TFRECORD = "array_record", "tfrecord"


def records(path: Path, file_format: str) -> Iterator[tuple[int, bytes]]:
    """Yield the records of a file in order, each with its place for `read_record`.

    Raises:
      InputError: the file is damaged, or has another format.
    """
    if file_format == TFRECORD:
        yield from _tfrecords(path)
        return
    with _readable(path):
        sizes, reader = _array_record(path)
        begin, count = 0, reader.num_records()
        while begin < count:
            indices = range(begin, min(begin + 16, count))
            if sum(map(sizes.unpacked_size, indices)) > sizes.most_bytes:
                indices = indices[:1]
            yield from zip(indices, _read(reader, indices, path), strict=True)
            begin += len(indices)


def read_record(path: Path, file_format: str, place: int) -> bytes:
    """Read the record at a place that `records` returned.

    Raises:
      InputError: the file is damaged, or has changed.
    """
    if file_format == TFRECORD:
        with path.open("rb") as file:
            file.seek(place)
            return _next(file, path) or b""
    with _readable(path):
        sizes, reader = _array_record(path)
        sizes.unpacked_size(place)
        (record,) = _read(reader, [place], path)
        return bytes(record)


@lru_cache(maxsize=64)
def _open(path: Path, changed: int) -> tuple[ArrayRecordFile, Any]:
    return ArrayRecordFile(path), array_record_module.ArrayRecordReader(str(path), "")


def _array_record(path: Path) -> tuple[ArrayRecordFile, Any]:
    # array_record would only log a missing file, and wait for ever at a pipe.
    with open_file(path) as file:
        return _open(path, os.fstat(file.fileno()).st_mtime_ns)


def _read(reader: Any, indices: Sequence[int], path: Path) -> list[bytes]:
    found = list(reader.read(list(indices)))
    if len(found) != len(indices):
        raise InputError(f"{path}: the array_record file is damaged; copy it again")
    return found


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path}: not an array_record file, or a damaged one; copy it again ({error})"
        ) from error


def _tfrecords(path: Path) -> Iterator[tuple[int, bytes]]:
    with open_file(path) as file:
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
        raise InputError(
            f"{where}: not a TFRecord file, or a damaged one (wrong checksum); copy it again"
        )
    size = os.fstat(file.fileno()).st_size
    data = file.read(length + 4) if length <= size else b""  # it may ask for any amount of memory
    if len(data) < length + 4:
        raise InputError(f"{where}: the TFRecord file ends within a record; copy it again")
    return bytes(data[:-4])
