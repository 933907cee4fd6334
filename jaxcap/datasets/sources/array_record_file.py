"""Bound the memory that the records of an array_record file take, before they are unpacked.

The file consists of Riegeli chunks: each a header of 40 bytes and compressed data, interrupted by
24 bytes at every multiple of 64 KiB (google/riegeli, doc/riegeli_records_file_format.md). The chunk
in the last 64 KiB gives the place of the footer, a chunk that gives the places of the others
(google/array_record, cpp/layout.proto). array_record trusts these numbers, but unpacks no more of a
simple chunk than its header says. Transposed chunks, which neither jaxcap nor TFDS writes, may take
any amount of memory.
"""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

from jaxcap.data.image_files import most_unpacked
from jaxcap.messages.errors import InputError

_BLOCK, _BLOCK_HEADER, _HEADER = 1 << 16, 24, 40
_SIMPLE, _TRANSPOSED = b"rt"
_CODECS = {ord("z"): "zstd", ord("b"): "brotli", ord("s"): "snappy"}


class ArrayRecordFile:
    """Where the records of a file are, and how much memory each takes.

    Safe in threads. The file is open only while it is read: array_record keeps one descriptor for
    each file already, and many systems allow only 1,024.

    Attributes:
      records: the number of records.
      record_bytes: the total size of the records, unpacked, as the footer gives it.
      most_bytes: the bytes that may be unpacked to read a record.
    """

    def __init__(self, path: Path) -> None:
        """Read the footer.

        Raises:
          ValueError: the file is damaged, or has another format.
        """
        self._path = path
        try:
            with path.open("rb", buffering=0) as file:
                self._size = os.fstat(file.fileno()).st_size
                self.most_bytes = most_unpacked(self._size)
                self._read_footer(file.fileno())
        except Exception as error:  # protobuf, PyArrow and struct raise a dozen types
            raise ValueError(f"its footer is damaged: {error}") from error

    def _read_footer(self, file: int) -> None:
        end = _NUMBERS.FromString(next(self._footers(file, self._size - _BLOCK))).a
        footers = self._footers(file, end)
        total = _METADATA.FromString(next(footers)).numbers
        count = min(total.b, self._size // _HEADER)
        parts = [_NUMBERS.FromString(part) for part in islice(footers, count)]
        self.records, self.record_bytes = total.c, sum(part.b for part in parts)
        self._begins = array("Q", [part.a for part in parts])
        self._unpacked = array("q", [-1]) * len(parts)  # −1: not known yet
        self._group = parts[0].c if parts else 1  # records in each chunk but the last
        if not all(begin < after for begin, after in pairwise([*self._begins, end])):
            raise ValueError("its chunks are out of order")
        if total.b != len(parts) or total.c > len(parts) * self._group or not self._group:
            raise ValueError(f"it counts {total.b} chunks and {total.c} records")

    def unpacked_size(self, index: int) -> int:
        """Return how many bytes are unpacked to read a record.

        Raises:
          InputError: they are more than `most_bytes`.
          ValueError: the file is damaged.
          IndexError: there is no such record.
        """
        chunk = index // self._group
        size = self._unpacked[chunk]
        return self._ask(chunk) if size < 0 else size

    def _ask(self, chunk: int) -> int:
        """Read the headers of a chunk and of the others in its block."""
        block = self._begins[chunk] // _BLOCK * _BLOCK
        first, last = (bisect_left(self._begins, place) for place in (block, block + _BLOCK))
        file = os.open(self._path, os.O_RDONLY)
        try:
            for i in range(first, last):
                _, self._unpacked[i] = self._sizes(file, self._begins[i], self.most_bytes)
        finally:
            os.close(file)
        return self._unpacked[chunk]

    def _sizes(self, file: int, begin: int, most: int) -> tuple[int, int]:
        """Return the numbers of packed and unpacked bytes of a chunk."""
        _, packed, _, kind, unpacked = struct.unpack("<5Q", self._read(file, begin, _HEADER))
        records, kind = divmod(kind, 256)
        if kind == _TRANSPOSED:
            raise InputError(
                f"{self._path}: the array_record file has transposed chunks, which may take any "
                "amount of memory; write it without the option 'transpose'"
            )
        if kind != _SIMPLE or records > self._size:
            raise ValueError("a chunk has no valid header")
        if unpacked > most:
            raise InputError(
                f"{self._path}: a part of the array_record file, of {self._size:,} bytes, would "
                f"take {unpacked:,} once unpacked; expected at most {most:,}. Copy the file again, "
                "or write it again with smaller records"
            )
        return packed, unpacked

    def _footers(self, file: int, begin: int) -> Iterator[bytes]:
        """Yield the records of the footer, or of the chunk that names its place.

        They say a few bytes of every other chunk, so they take less than the file.
        """
        packed, _ = self._sizes(file, begin, self._size)
        data = BytesIO(self._read(file, begin, _HEADER + packed)[_HEADER:])
        (codec,) = data.read(1)
        sizes = BytesIO(self._unpack(codec, data.read(_varint(data))))
        values = BytesIO(self._unpack(codec, data.read()))
        while sizes.tell() < len(sizes.getbuffer()):
            yield values.read(_varint(sizes))

    def _unpack(self, codec: int, data: bytes) -> bytes:
        if not codec:
            return data
        stream = BytesIO(data)
        if (size := _varint(stream)) > self._size:
            raise ValueError(f"it unpacks to {size:,} bytes")
        return bytes(pa.decompress(stream.read(), size, _CODECS[codec], asbytes=True))

    def _read(self, file: int, begin: int, count: int) -> bytes:
        """Read from a chunk, without the block headers that interrupt it."""
        count = min(count, self._size)
        blocks = count // (_BLOCK - _BLOCK_HEADER) + 2
        raw = os.pread(file, count + blocks * _BLOCK_HEADER, begin)
        first = -begin % _BLOCK
        rest = (raw[i + _BLOCK_HEADER : i + _BLOCK] for i in range(first, len(raw), _BLOCK))
        data = b"".join([raw[:first], *rest])[:count]
        if len(data) < count:
            raise ValueError("the file ends within a chunk")
        return data


def _varint(data: BytesIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        (byte,) = data.read(1)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("it has a number of more than 64 bits")


def _messages() -> list[Any]:
    """Return messages of the wire format of `layout.proto`: all of them hold numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="jaxcap/array_record.proto", package="jaxcap")
    numbers = file.message_type.add(name="Numbers")
    metadata = file.message_type.add(name="Metadata")
    for number, name in enumerate("abc", 1):
        numbers.field.add(name=name, number=number, type="TYPE_UINT64", label="LABEL_OPTIONAL")
    metadata.field.add(name="numbers", number=1, type="TYPE_MESSAGE", type_name=".jaxcap.Numbers")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"jaxcap.{name}"))
        for name in ("Numbers", "Metadata")
    ]


_NUMBERS, _METADATA = _messages()
