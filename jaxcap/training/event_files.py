"""Write and read TensorBoard's event files, without TensorFlow.

A file is a sequence of records, each an `Event` in the protocol buffer wire format. Formats:
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details,
https://protobuf.dev/programming-guides/encoding/, and for the field numbers
https://github.com/tensorflow/tensorboard/tree/master/tensorboard/compat/proto (event, summary,
tensor). Field numbers never change, so that old files stay readable.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxcap.files.crc32c import masked_crc32c

_DOUBLE, _BYTES, _FLOAT = 1, 2, 5
"""Wire types; 0 is a variable-length integer."""
_DT_STRING = 7
_RGB = 3
_START = 1
"""`SessionLog.START`."""
_TAIL = 4
"""The number of bytes of the checksum that ends a record."""


@dataclass(frozen=True)
class Record:
    """A record of an event file.

    Attributes:
      step: the step of the event.
      tags: the tags of its values.
      content: the bytes of the record, with length and checksums.
    """

    step: int
    tags: tuple[str, ...]
    content: bytes


def scalar(tag: str, value: float) -> bytes:
    """Encode a number as a `Summary.Value`."""
    return _text(1, tag) + _field(2, _FLOAT, struct.pack("<f", value))


def image(tag: str, encoded: bytes, *, width: int, height: int) -> bytes:
    """Encode a JPEG or PNG file as a `Summary.Value`; width and height are in pixels."""
    picture = _integer(1, height) + _integer(2, width) + _integer(3, _RGB)
    return _text(1, tag) + _message(4, picture + _message(4, encoded))


def text(tag: str, markdown: str) -> bytes:
    """Encode Markdown for TensorBoard's Text page as a `Summary.Value`."""
    tensor = _integer(1, _DT_STRING) + _message(2, b"") + _text(8, markdown)
    return _text(1, tag) + _message(8, tensor) + _message(9, _message(1, _text(1, "text")))


def event(values: Sequence[bytes], *, step: int, wall_time: float) -> Record:
    """Create the record of the values of one step.

    Args:
      values: encoded by `scalar`, `image` or `text`.
      wall_time: seconds since 1970.
    """
    summary = b"".join(_message(1, value) for value in values)
    content = _double(1, wall_time) + _integer(2, step) + _message(5, summary)
    return Record(step, tuple(map(_tag, values)), _framed(content))


def header(wall_time: float) -> bytes:
    """Return the first two records of a file: its version, and the start of a session at step 0.

    The start makes an open TensorBoard discard what it read from earlier files.
    """
    version = _framed(_double(1, wall_time) + _text(3, "brain.Event:2"))
    start = _message(7, _integer(1, _START))
    return version + _framed(_double(1, wall_time) + _integer(2, 0) + start)


def records(content: bytes) -> Iterator[Record]:
    """Yield the events of a file that hold values, up to its end or first damaged record."""
    begin = 0
    while begin + 12 <= len(content):
        head = content[begin : begin + 8]
        (size,) = struct.unpack("<Q", head)
        end = begin + 12 + size + _TAIL
        if content[begin + 8 : begin + 12] != _checksum(head) or end > len(content):
            return
        body = content[begin + 12 : end - _TAIL]
        if content[end - _TAIL : end] != _checksum(body):
            return
        fields = dict(_fields(body))
        summary = fields.get(5)
        if isinstance(summary, bytes):
            tags = tuple(_tag(value) for n, value in _fields(summary) if isinstance(value, bytes))
            yield Record(int(fields.get(2, 0)), tags, content[begin:end])
        begin = end


def _tag(value: bytes) -> str:
    tag = dict(_fields(value)).get(1, b"")
    return tag.decode("utf-8", "replace") if isinstance(tag, bytes) else ""


def _framed(content: bytes) -> bytes:
    head = struct.pack("<Q", len(content))
    return head + _checksum(head) + content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(content))


# ---- the wire format -------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    """Encode an integer, lowest 7 bits first; the eighth bit marks that another byte follows."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes((*found, number))


def _field(number: int, wire_type: int, content: bytes) -> bytes:
    return _varint(number << 3 | wire_type) + content


def _integer(number: int, value: int) -> bytes:
    return _field(number, 0, _varint(value))


def _double(number: int, value: float) -> bytes:
    return _field(number, _DOUBLE, struct.pack("<d", value))


def _message(number: int, content: bytes) -> bytes:
    return _field(number, _BYTES, _varint(len(content)) + content)


def _text(number: int, value: str) -> bytes:
    return _message(number, value.encode("utf-8", "replace"))


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the field numbers and values of a message."""
    stream = io.BytesIO(content)
    while stream.tell() < len(content):
        key = _read_varint(stream)
        wire_type = key & 7
        if wire_type == 0:
            yield key >> 3, _read_varint(stream)
            continue
        size = {_DOUBLE: 8, _FLOAT: 4}.get(wire_type) or _read_varint(stream)
        yield key >> 3, stream.read(size)


def _read_varint(stream: io.BytesIO) -> int:
    number = shift = 0
    while True:
        byte = stream.read(1)[0]
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number
