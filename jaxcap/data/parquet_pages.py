"""Bound the memory that columns of a Parquet file take, before pyarrow reads them.

The sizes in the footer may be wrong, and pyarrow has no limit of its own. But it refuses pages that
unpack to more bytes than their headers say.

Reference: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from jaxcap.data.image_files import most_unpacked, most_unpacked_in_all
from jaxcap.files import open_file
from jaxcap.files.thrift import BINARY, I32, I64, LIST, STRUCT, Struct, Thrift, list_of

_SMALL_GROUP_BYTES, _MAX_GROUP_RATIO = 1 << 28, 8
"""What one row group may take beyond so many times the size of the file."""
_COPIES = 4
"""How many copies of its largest page pyarrow holds while it reads a column."""
_VALUE_BYTES = 16
"""What a value takes besides its text: a number or the index of a text, and levels."""
_PADDING = 100
"""How far pyarrow reads on after the columns of old writers."""
_MAX_HEADER_BYTES = 2**24
_STRUCTS = list_of(STRUCT)
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_DETAILS = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}
"""The field of a page's header that holds the details of each kind of page."""
_DELTA_LENGTH_BYTE_ARRAY, _DELTA_BYTE_ARRAY = 6, 7


class _Place(NamedTuple):
    """Where a column of a row group is in the file, and how many values it says it has."""

    start: int
    length: int
    values: int


class ParquetPages:
    """Counts what is read of a Parquet file, and refuses what takes too much.

    Args:
      path: the file.
      file: the same, opened as a `pyarrow.parquet.ParquetFile`.

    Raises:
      pa.ArrowInvalid, ValueError: the footer is damaged.
    """

    def __init__(self, path: Path, file: Any):
        self._path, self._size = path, path.stat().st_size
        self._leaves = [file.schema.column(number) for number in range(len(file.schema))]
        # pyarrow ends the process when it is asked for columns that are damaged.
        footer = _footer(path, self._size)
        groups = footer.get((4, _STRUCTS), [])
        _check_lists(footer, {2: STRUCT, 4: STRUCT, 5: STRUCT, 7: STRUCT})
        self._columns = [[_place(chunk) for chunk in g.get((1, _STRUCTS), [])] for g in groups]
        for group in groups:
            _check_lists(group, {1: STRUCT, 4: STRUCT})
        if sum(place.length for places in self._columns for place in places) > self._size:
            raise pa.ArrowInvalid("columns overlap, or are out of bounds")
        if (rows := sum(abs(group.get((3, I64), 0)) for group in groups)) > self._size:
            raise pa.ArrowInvalid(f"{rows:,} rows in {self._size:,} bytes")
        self._taken: dict[tuple[int, Any], int] = {}
        self._total = 0

    def take(self, group: int, what: Any, size: int) -> None:
        """Count what is about to be read of a row group; the same counts once.

        Raises:
          pa.ArrowInvalid: it takes too much.
        """
        self._total -= self._taken.pop((group, what), 0)
        most = min(
            most_unpacked(self._size),
            _SMALL_GROUP_BYTES + _MAX_GROUP_RATIO * self._size,
            most_unpacked_in_all(self._size) - self._total,
        )
        if size > most:
            raise pa.ArrowInvalid(
                f"row group {group} takes {size:,} bytes; expected at most {most:,}. Write it with "
                "smaller row groups"
            )
        self._taken[group, what] = size
        self._total += size

    def take_columns(self, group: int, file: Any, columns: Sequence[str]) -> None:
        """Count the pages of columns that are about to be read.

        Args:
          file: the file as it is read. Its texts that are read as dictionaries count once.
          columns: their names, or those of fields in them, such as "image.bytes".

        Raises:
          pa.ArrowInvalid, ValueError: they take too much, or are damaged.
        """
        if group >= len(self._columns):
            raise pa.ArrowInvalid(f"no row group {group}")
        types = [kind for field in file.schema_arrow for kind in _leaf_types(field.type)]
        if not len(types) == len(self._leaves) == len(self._columns[group]):
            raise pa.ArrowInvalid(f"row group {group} has other columns than the file")
        size = 0
        with open_file(self._path) as data:
            for leaf, kind, place in zip(self._leaves, types, self._columns[group], strict=True):
                if any(f"{leaf.path}.".startswith(f"{name}.") for name in columns):
                    is_text = leaf.physical_type == "BYTE_ARRAY"
                    size += self._column_bytes(
                        data,
                        place,
                        width=max(_VALUE_BYTES, leaf.length or 0),
                        repeats=is_text and not pa.types.is_dictionary(kind),
                    )
        self.take(group, tuple(columns), size)

    def _column_bytes(self, data: IO[bytes], place: _Place, *, width: int, repeats: bool) -> int:
        at, length, values = place
        end = at + length
        size, seen, counted, largest, repeated = length, 0, 0, 0, 0
        while seen < values and at < min(end + _PADDING, self._size):
            header, header_bytes = _page_header(data, at)
            kind, unpacked, packed = (header.get((number, I32), -1) for number in (1, 2, 3))
            details = header.get((_DETAILS.get(kind, 0), STRUCT), {})
            count = details.get((1, I32), 0)
            if min(kind, unpacked, packed, count) < 0:
                raise pa.ArrowInvalid(f"the header of the page at byte {at:,} is damaged")
            encoding = details.get((4 if kind == _DATA_V2 else 2, I32))
            if encoding in (_DELTA_LENGTH_BYTE_ARRAY, _DELTA_BYTE_ARRAY):
                # A few bytes may claim billions of lengths, for which pyarrow makes room.
                raise pa.ArrowInvalid(
                    "texts in a DELTA encoding, which takes memory without bounds; write it with "
                    "dictionaries or plain texts, as pandas does"
                )
            size += max(unpacked, packed)
            largest = max(largest, unpacked)
            counted += count
            if kind == _DICTIONARY:
                repeated = unpacked if repeats else 0
            else:
                seen += count
            at += header_bytes + packed
        size += (_COPIES - 1) * largest
        return size + max(values, counted) * (width + repeated)


def _footer(path: Path, size: int) -> Struct:
    with open_file(path) as file:
        file.seek(size - 8)
        end = file.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != b"PAR1" or length > size - 8:
            raise pa.ArrowInvalid("the end of the file is damaged")
        file.seek(size - 8 - length)
        data = file.read(length)
    try:
        return Thrift(data).struct()
    except EOFError as error:
        raise pa.ArrowInvalid(f"the footer is damaged: {error}") from None


def _place(chunk: Struct) -> _Place:
    column = chunk.get((3, STRUCT), {})
    _check_lists(column, {2: I32, 3: BINARY, 8: STRUCT, 13: STRUCT})
    _check_lists(column.get((16, STRUCT), {}), {2: I64, 3: I64})
    _check_lists(column.get((17, STRUCT), {}), {2: I32})
    start, length, values = (column.get((number, I64), -1) for number in (9, 7, 5))
    if min(start, length, values) < 0 or (8, STRUCT) in chunk:
        raise pa.ArrowInvalid("the place of a column is damaged or encrypted")
    dictionary = column.get((11, I64), 0)
    return _Place(dictionary if 0 < dictionary < start else start, length, values)


def _check_lists(fields: Struct, kinds: dict[int, int]) -> None:
    """Refuse lists of other types than pyarrow reads, because it does not look at their types."""
    for (number, kind), values in fields.items():
        is_known = kind & 0x0F == LIST and number in kinds and values
        if is_known and kind != list_of(kinds[number]):
            raise pa.ArrowInvalid(f"the footer has a list of the wrong type, {kind >> 4}")


def _leaf_types(kind: Any) -> list[Any]:
    kind = getattr(kind, "storage_type", kind)
    if pa.types.is_nested(kind):
        inner = [kind.field(number).type for number in range(kind.num_fields)]
        return [leaf for each in inner for leaf in _leaf_types(each)]
    return [kind]


def _page_header(data: IO[bytes], at: int) -> tuple[Struct, int]:
    """Return the header of the page at a place in the file, and its size."""
    size = 2**10
    while True:
        data.seek(at)
        thrift = Thrift(data.read(size))
        try:
            return thrift.struct(), thrift.at
        except EOFError:
            if (size := size * 16) > _MAX_HEADER_BYTES:
                raise pa.ArrowInvalid(f"the header of the page at byte {at:,} has no end") from None
