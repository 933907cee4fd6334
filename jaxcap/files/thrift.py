"""Decode structs in Thrift's compact protocol, in which Parquet files describe themselves.

Reference: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any

TRUE, FALSE, I8, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
"""The types of fields and of the values in lists."""


def list_of(kind: int) -> int:
    """Return the type of a list of values of one type."""
    return LIST | kind << 4


_MAX_DEPTH, _MAX_VALUES = 64, 2**24

Struct = dict[tuple[int, int], Any]
"""The values of a struct by (number, type) of their fields, with `list_of` for lists.

A program skips fields of other types than it expects, and so does a look-up by both.
"""


class Thrift:
    """Decodes `data` from its beginning.

    Attributes:
      at: where the next value starts.
    """

    def __init__(self, data: bytes):
        self.at = 0
        self._data = data
        self._left = _MAX_VALUES

    def struct(self, depth: int = 0) -> Struct:
        """Decode a struct.

        Raises:
          EOFError: the data end before it.
          ValueError: it is malformed, holds a map, or is nested too deep or too large.
        """
        fields: Struct = {}
        number = 0
        while (kind := (head := self._byte()) & 0x0F) != 0:
            number = number + (head >> 4) if head >> 4 else self._integer(32)
            if (number, kind) in fields or abs(number) >= 2**15:
                raise ValueError(f"field {number} is repeated or out of range")
            if kind == LIST:
                values, inner = self._list(depth + 1)
                fields[number, list_of(inner)] = values
            elif kind in (TRUE, FALSE):  # the type is the value; in a list, a byte follows
                fields[number, kind] = kind == TRUE
            else:
                fields[number, kind] = self._value(kind, depth + 1)
        return fields

    def _list(self, depth: int) -> tuple[list[Any], int]:
        head = self._byte()
        count, kind = head >> 4, head & 0x0F
        if count == 15:
            count = self._varint(31)
        return [self._value(kind, depth + 1) for _ in range(count)], kind

    def _value(self, kind: int, depth: int) -> Any:
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise ValueError("nested too deep, or too many values")
        if kind in (TRUE, FALSE, I8):
            return self._byte()
        if kind in (I16, I32, I64):
            return self._integer(64 if kind == I64 else 32)
        if kind == DOUBLE:
            return self._take(8)
        if kind == BINARY:
            return self._take(self._varint(31))
        if kind in (LIST, SET):
            return self._list(depth)[0]
        if kind == STRUCT:
            return self.struct(depth)
        raise ValueError(f"a value of type {kind}")

    def _integer(self, bits: int) -> int:
        zigzag = self._varint(bits)
        return zigzag >> 1 ^ -(zigzag & 1)

    def _varint(self, bits: int) -> int:
        number = shift = 0
        while shift < bits:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        else:
            raise ValueError("a number is too long")
        if number >> bits:
            raise ValueError("a number is too large")
        return number

    def _byte(self) -> int:
        try:
            byte = self._data[self.at]
        except IndexError:
            raise EOFError("the data end too early") from None
        self.at += 1
        return byte

    def _take(self, count: int) -> bytes:
        taken = self._data[self.at : self.at + count]
        if len(taken) < count:
            raise EOFError("the data end too early")
        self.at += count
        return taken
