"""HDF5 files as Keras writes them, read with pyfive, and without trusting the file.

libhdf5 hangs or crashes on files with a few damaged bytes, and neither can be caught in
Python. pyfive (https://github.com/NCAS-CMS/pyfive) is pure Python: what it makes of such a
file is an exception, so long as the file can name neither how much memory is taken nor how
often a structure is read. That is seen to here; what Keras has no use for is refused by name:
compression, chunks, links and other files.

Sections are those of the HDF5 file format specification, version 3.0,
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html.
"""

from __future__ import annotations

import functools
import math
import struct
import warnings
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"

Attributes: TypeAlias = dict[str, "list[str]"]

_DATATYPE, _EXTERNAL, _FILTERS = 0x03, 0x07, 0x0B  # messages of an object header, IV.A.2
_CONTIGUOUS = 1  # the layout of an array, IV.A.2.i


class Hdf5Error(Exception):
    """The file is damaged, or has more of HDF5 than Keras uses; the text says what."""


@dataclass(frozen=True)
class Dataset:
    """An array and its attributes that are strings.

    Attributes:
        array: read-only, over the file's own bytes; None if its type is not one of numbers.
        attributes: name to strings.
    """

    array: np.ndarray | None
    attributes: Attributes


@dataclass(frozen=True)
class Group:
    """A directory of groups and arrays, and its attributes that are strings."""

    members: dict[str, Group | Dataset]
    attributes: Attributes

    def find(self, path: str) -> Group | Dataset | None:
        """What lies at `path` (`"a/b"`) below this group; None if nothing does."""
        found: Group | Dataset | None = self
        for name in path.split("/"):
            found = found.members.get(name) if isinstance(found, Group) else None
        return found


def read_hdf5(data: bytes | memoryview) -> Group:
    """The root group, with all that is below it.

    Args:
        data: the bytes of a whole file.

    Raises:
        Hdf5Error: the bytes are damaged or cut short, need more of HDF5 than Keras uses, or
            pyfive is not there.
    """
    try:
        from pyfive.misc_low_level import SuperBlock
    except ImportError:
        raise Hdf5Error("reading Keras's files needs pyfive: pip install 'jaxcap[keras]'") from None
    if bytes(data[: len(SIGNATURE)]) != SIGNATURE:
        raise Hdf5Error("not an HDF5 file")
    file = _File(memoryview(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # pyfive's, of what it leaves out
            start = SuperBlock(file, 0)
            (end,) = struct.unpack_from("<Q", data, 28 if start.version else 40)  # II.A
            if end > len(data):
                raise Hdf5Error(f"cut short: it has {len(data)} of {end} bytes")
            found = file.item(start.offset_to_dataobjects, depth=0)
    except Hdf5Error:
        raise
    except Exception as error:  # whatever pyfive trips over; AssertionError and MemoryError too
        raise Hdf5Error(
            f"damaged, cut short, or in a form of HDF5 that Keras does not use ({error!r})"
        ) from error
    if not isinstance(found, Group):
        raise Hdf5Error("damaged: its root is no group")
    return found


class _File:
    """The file as pyfive reads it: nothing past the end, not forever, and never the arrays."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.place = data, 0
        # Nearly every byte of structure is read once; only circles come to the end of this.
        self.left = min(4 * len(data), 1 << 24)
        self.seen: set[int] = set()
        self.heaps: dict[int, Any] = {}  # where pyfive keeps those it has read
        self.stored = 0  # bytes of arrays so far

    def seek(self, place: int) -> None:
        self.place = place

    def read(self, size: int) -> bytearray:
        self.spend(size)
        start, self.place = self.place, self.place + size
        if self.place > len(self.data):
            raise Hdf5Error(f"damaged or cut short: it points to byte {self.place}")
        # pyfive appends a header's blocks to the first: to bytes that would be a copy each time.
        return bytearray(self.data[start : self.place])

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Hdf5Error("damaged: its structures are more than the file, or run in a circle")

    def item(self, address: int, depth: int) -> Group | Dataset:
        if address in self.seen or depth > 32:
            raise Hdf5Error(f"damaged: two paths lead to byte {address}, or one without end")
        self.seen.add(address)
        header = _header_type()(self, address, global_heaps=self.heaps)
        if any(message["flags"] & 2 for message in header.msgs):
            raise Hdf5Error("has objects that share a type, which Keras does not use")
        attributes = {
            name: [value] if isinstance(value, str) else value.ravel().tolist()
            for name, value in header.get_attributes().items()
            if isinstance(value, (str, np.ndarray))
        }
        if header.is_dataset:
            return Dataset(self.array(header), attributes)
        members: dict[str, Group | Dataset] = {}
        for name, target in header.iter_links():
            if not isinstance(target, int):
                raise Hdf5Error(f"'{name}' is a link to elsewhere, which is not followed")
            if not name or name in members:
                raise Hdf5Error(f"damaged: the name {name!r} in a group is empty or not alone")
            members[name] = self.item(target, depth + 1)
        return Group(members, attributes)

    def array(self, header: Any) -> np.ndarray | None:
        dtype, shape = _dtype(header), header.shape
        if dtype is None or shape is None:
            return None
        _, layout, place = header.get_id_storage_params()
        # pyfive would unpack a chunk to whatever size it has.
        if layout != _CONTIGUOUS or header.find_msg_type(_FILTERS):
            raise Hdf5Error(
                "has arrays stored compressed or in chunks, which Keras does not do;"
                " save the weights again with Keras"
            )
        if header.find_msg_type(_EXTERNAL):
            raise Hdf5Error("has an array that lies in another file, which is not followed")
        start, stored = struct.unpack_from("<2Q", header.msg_data, place)  # IV.A.2.i
        size = math.prod(shape) * dtype.itemsize
        self.stored += size
        if stored != size or max(self.stored, size and start + size) > len(self.data):
            raise Hdf5Error(f"damaged, cut short or never filled: an array of {size} bytes")
        return np.frombuffer(self.data[start:][:size], dtype).reshape(shape)


@functools.cache
def _header_type() -> Any:
    """pyfive's reader of an object's header, with attributes that are strings and no others."""
    from pyfive.dataobjects import DataObjects
    from pyfive.p5t import P5StringType, P5VlenStringType

    class Header(DataObjects):
        def _attr_value(self, ptype: Any, buf: bytearray, count: int, offset: int) -> Any:
            if not isinstance(ptype, P5StringType):
                return [None]  # other types may nest, each level multiplying the one below
            size = 16 if isinstance(ptype, P5VlenStringType) else ptype.fixed_size
            # pyfive makes room for all of them before it reads the first.
            if not 0 <= count * size <= len(buf) - offset:
                raise Hdf5Error("damaged: an attribute is longer than its header")
            found = super()._attr_value(ptype, buf, count, offset)
            texts = [bytes(item or b"").partition(b"\0")[0] for item in found]
            self.fh.spend(sum(map(len, texts)))  # all may be the same one
            return np.array([text.decode(errors="backslashreplace") for text in texts], object)

    return Header


def _dtype(header: Any) -> np.dtype | None:
    """The type of numbers, or of two opaque bytes; None for others."""
    from pyfive.p5t import P5FloatType, P5IntegerType, P5OpaqueType

    ptype = header.ptype
    # What Keras writes for bfloat16, with the attribute dtype = "bfloat16" beside it.
    if isinstance(ptype, P5OpaqueType) and ptype.size == 2:
        return np.dtype("V2")
    if isinstance(ptype, P5FloatType):  # to pyfive always IEEE's; the mantissa's bits, IV.A.2.d
        place = header.find_msg_type(_DATATYPE)[0]["offset_to_message"]
        return ptype.dtype if header.msg_data[place + 15] == np.finfo(ptype.dtype).nmant else None
    return ptype.dtype if isinstance(ptype, P5IntegerType) else None
