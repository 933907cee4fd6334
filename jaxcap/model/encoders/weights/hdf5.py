"""Read Keras's HDF5 files with pyfive, without trusting the file.

libhdf5 hangs or crashes on files with a few damaged bytes, and Python can catch neither. pyfive
(https://github.com/NCAS-CMS/pyfive) is pure Python and raises an exception instead, unless the
file makes it allocate too much memory or read a structure again and again. This module bounds
both. It refuses features that Keras does not use: compression, chunks, links and external files.

Section numbers refer to the HDF5 file format specification, version 3.0,
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html.
"""

from __future__ import annotations

import functools
import importlib.util
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
    """The file is damaged or uses features of HDF5 that Keras does not; the text says which."""


@dataclass(frozen=True)
class Dataset:
    """An array and its string attributes.

    Attributes:
        array: a read-only view of the file's bytes; None if its type is not numeric.
        attributes: name to strings.
    """

    array: np.ndarray | None
    attributes: Attributes


@dataclass(frozen=True)
class Group:
    """A directory of groups and arrays, and its string attributes."""

    members: dict[str, Group | Dataset]
    attributes: Attributes

    def find(self, path: str) -> Group | Dataset | None:
        """Return the group or array at `path` (`"a/b"`) below this group, or None."""
        found: Group | Dataset | None = self
        for name in path.split("/"):
            found = found.members.get(name) if isinstance(found, Group) else None
        return found


def read_hdf5(data: bytes | memoryview) -> Group:
    """Read the root group with everything below it.

    Args:
        data: the bytes of a whole file.

    Raises:
        Hdf5Error: the bytes are damaged or cut short, use features that Keras does not, or
            pyfive is not installed.
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
            warnings.simplefilter("error", UserWarning)  # pyfive warns about what it skips
            start = SuperBlock(file, 0)
            (end,) = struct.unpack_from("<Q", data, 28 if start.version else 40)  # II.A
            if end > len(data):
                raise Hdf5Error(f"cut short: it has {len(data)} of {end} bytes")
            found = file.item(start.offset_to_dataobjects, depth=0)
    except Hdf5Error:
        raise
    except Exception as error:  # pyfive raises anything, AssertionError and MemoryError too
        raise Hdf5Error(
            f"damaged, cut short, or a variant of HDF5 that Keras does not use ({error!r})"
        ) from error
    if not isinstance(found, Group):
        raise Hdf5Error("damaged: its root is not a group")
    return found


class _File:
    """The file as pyfive sees it: reads are bounded in place and total, and skip the arrays."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.place = data, 0
        # Nearly every byte of structure is read once; only cycles exhaust this budget.
        self.left = min(4 * len(data), 1 << 24)
        self.seen: set[int] = set()
        self.heaps: dict[int, Any] = {}  # pyfive's cache
        self.stored = 0  # bytes of arrays so far

    def seek(self, place: int) -> None:
        self.place = place

    def read(self, size: int) -> bytearray:
        self.spend(size)
        start, self.place = self.place, self.place + size
        if self.place > len(self.data):
            raise Hdf5Error(f"damaged or cut short: it points to byte {self.place}")
        # pyfive appends the blocks of a header to the first one, which would copy bytes each time.
        return bytearray(self.data[start : self.place])

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Hdf5Error("damaged: its structures exceed the file or form a cycle")

    def item(self, address: int, depth: int) -> Group | Dataset:
        if address in self.seen or depth > 32:
            raise Hdf5Error(f"damaged: byte {address} is reached twice or nested too deeply")
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
                raise Hdf5Error(f"'{name}' is an external link, which is not followed")
            if not name or name in members:
                raise Hdf5Error(f"damaged: the name {name!r} in a group is empty or repeated")
            members[name] = self.item(target, depth + 1)
        return Group(members, attributes)

    def array(self, header: Any) -> np.ndarray | None:
        dtype, shape = _dtype(header), header.shape
        if dtype is None or shape is None:
            return None
        _, layout, place = header.get_id_storage_params()
        # pyfive would decompress a chunk to any size.
        if layout != _CONTIGUOUS or header.find_msg_type(_FILTERS):
            raise Hdf5Error(
                "has arrays stored compressed or in chunks, which Keras does not do;"
                " save the weights again with Keras"
            )
        if header.find_msg_type(_EXTERNAL):
            raise Hdf5Error("has an array in another file, which is not followed")
        start, stored = struct.unpack_from("<2Q", header.msg_data, place)  # IV.A.2.i
        size = math.prod(shape) * dtype.itemsize
        self.stored += size
        if stored != size or max(self.stored, size and start + size) > len(self.data):
            raise Hdf5Error(f"damaged, cut short or never filled: an array of {size} bytes")
        return np.frombuffer(self.data[start:][:size], dtype).reshape(shape)


@functools.cache
def _header_type() -> Any:
    """Return pyfive's reader of object headers, restricted to string attributes.

    No byte of a file is a part of many names or texts: messages end where their header says, and
    heaps spend what they return.
    """
    from pyfive.misc_low_level import FractalHeap, Heap
    from pyfive.p5t import P5StringType, P5VlenStringType

    class Names(Heap):
        def __init__(self, fh: Any, offset: int) -> None:
            super().__init__(fh, offset)
            self.fh = fh

        def get_object_name(self, offset: int) -> bytearray:
            name: bytearray = super().get_object_name(offset)
            self.fh.spend(len(name))
            return name

    class Records(FractalHeap):
        def get_data(self, heapid: Any) -> Any:
            data = super().get_data(heapid)
            self.fh.spend(len(self.blocks) + len(data or b""))  # it searches all blocks
            return data

    # A copy of the module, for it creates the heaps by their names.
    spec: Any = importlib.util.find_spec("pyfive.dataobjects")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.Heap, module.FractalHeap = Names, Records

    class Header(module.DataObjects):
        @functools.cached_property
        def _sizes(self) -> dict[int, int]:
            return {message["offset_to_message"]: message["size"] for message in self.msgs}

        def unpack_attribute(self, offset: int) -> Any:
            return self._parse_attribute_msg(self._message(offset), 0)

        def _get_link_from_link_msg(self, link_msg: Any) -> Any:
            return self._decode_link_msg(self._message(link_msg["offset_to_message"]), 0)[1]

        def _message(self, offset: int) -> bytearray:
            return self.msg_data[offset : offset + self._sizes[offset]]

        def _attr_value(self, ptype: Any, buf: Any, count: int, offset: int) -> Any:
            if not isinstance(ptype, P5StringType):
                return [None]  # other types may nest, each level multiplying the one below
            size = 16 if isinstance(ptype, P5VlenStringType) else ptype.fixed_size
            # pyfive allocates all of them before it reads the first.
            if not 0 <= count * size <= len(buf) - offset:
                raise Hdf5Error("damaged: an attribute is longer than its header")
            found = super()._attr_value(ptype, buf, count, offset)
            self.fh.spend(sum(len(item or b"") for item in found))  # all may be the same text
            texts = [bytes(item or b"").partition(b"\0")[0] for item in found]
            return np.array([text.decode(errors="backslashreplace") for text in texts], object)

    return Header


def _dtype(header: Any) -> np.dtype | None:
    """Return a numeric type or that of two opaque bytes; None for other types."""
    from pyfive.p5t import P5FloatType, P5IntegerType, P5OpaqueType

    ptype = header.ptype
    # Keras writes bfloat16 in this way, with the attribute dtype = "bfloat16".
    if isinstance(ptype, P5OpaqueType) and ptype.size == 2:
        return np.dtype("V2")
    if isinstance(ptype, P5FloatType):  # pyfive assumes IEEE; check the mantissa, IV.A.2.d
        place = header.find_msg_type(_DATATYPE)[0]["offset_to_message"]
        return ptype.dtype if header.msg_data[place + 15] == np.finfo(ptype.dtype).nmant else None
    return ptype.dtype if isinstance(ptype, P5IntegerType) else None
