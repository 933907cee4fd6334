"""Reading PyTorch's weight files without PyTorch, and without trusting them.

A `.pth` file is a pickle, and a pickle is a program. This reader lets that program name
nothing but ordered dictionaries, tensors and storages, each replaced by a harmless stand-in
of our own; whatever else it names is refused before it runs.

Two layouts exist (`torch/serialization.py` writes both). *Legacy*, until PyTorch 1.5: five
pickles (magic number, protocol, machine, object, storage keys), then for each key a count
and its bytes. *Zip*, since: `NAME/data.pkl` and one uncompressed `NAME/data/KEY` per storage.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

import ml_dtypes
import numpy as np

from jaxcap.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MEMO_CODES = ("PUT", "BINPUT", "LONG_BINPUT")
_File: TypeAlias = io.BufferedReader | io.BytesIO
_STATE_KEYS = ("state_dict", "model_state_dict", "model")

_STORAGE_DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a PyTorch state dictionary, legacy or zip, as read-only numpy arrays.

    A checkpoint that keeps its tensors under `state_dict`, `model_state_dict` or `model` is
    opened there.

    Args:
        path: a `.pth` or `.pt` file written by `torch.save`.

    Returns:
        Name to array, in the order of the file; bfloat16 as `ml_dtypes.bfloat16`.

    Raises:
        InputError: the file is missing, cut short, damaged, not PyTorch's, holds something
            else than tensors, or names anything that a state dictionary has no need of.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return (_read_zip if is_zip else _read_legacy)(file, size)
    except _Refused as refusal:
        raise InputError(f"{path}: {refusal}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:
        # Damaged bytes make the unpickler, zipfile and numpy raise nearly anything.
        raise InputError(
            f"{path}: not a whole PyTorch file ({type(error).__name__}: {error})."
            f" {_first_bytes(path)} Was the download cut short?"
        ) from error


class _Refused(Exception):
    """The file is refused; the text says why."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    length: int  # elements


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # elements, as are the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StandIn:
    """A callable that a pickle may call but not alter (BUILD would call `__setstate__`)."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise _Refused("its pickle tries to alter the reader")


def _load(unpickler: _Unpickler) -> Any:
    """Runs a pickle, after a look at whether it asks for more memory than it is worth."""
    file, start = unpickler.file, unpickler.file.tell()
    for code, argument, _place in pickletools.genops(file):
        # The unpickler would make its memo as long as the largest index, up to 32 GB.
        if code.name in _MEMO_CODES and int(argument or 0) > unpickler.file_size:
            raise _Refused(f"damaged: its pickle numbers an object {argument}")
    file.seek(start)
    return unpickler.load()


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise _Refused("damaged: a tensor's storage, offset, sizes or strides make no sense")
    if len(shape) != len(strides):
        raise _Refused(f"damaged: a tensor has {len(shape)} sizes but {len(strides)} strides")
    count = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    # Stride 0 would let a few bytes claim to be terabytes.
    if count and (last >= storage.length or count > storage.length):
        raise _Refused(
            f"damaged: a tensor of {tuple(shape)} reaches beyond its {storage.length} stored values"
        )
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _StandIn(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _StandIn(lambda data, *_: data),
    # Storage types are only ever looked up by name: see `persistent_load`.
    **{("torch", name): name for name in _STORAGE_DTYPES},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: _File, file_size: int) -> None:
        super().__init__(file, encoding="utf-8")
        self.file = file
        self.file_size = file_size
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(
                f"refused: it asks to run '{module}.{name}', which no file of weights needs."
                " Expected a state dictionary: save `model.state_dict()`, not the model"
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _location, count, *view = pid
        if kind != "storage" or storage_type not in _STORAGE_DTYPES:
            raise _Refused(f"holds {kind!r} of {storage_type!r}, which this reader does not know")
        if any(view_of is not None for view_of in view):
            raise _Refused("holds a view of a storage, which only PyTorch before 0.4 wrote")
        dtype = _STORAGE_DTYPES[storage_type]
        if type(count) is not int or not 0 <= count * dtype.itemsize <= self.file_size:
            raise _Refused(
                f"cut short or damaged: a storage claims {count} values,"
                f" the file has {self.file_size} bytes"
            )
        storage = _Storage(str(key), dtype, count)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise _Refused(f"damaged: storage {key} is described in two ways")
        return storage


def _read_legacy(file: _File, file_size: int) -> dict[str, np.ndarray]:
    magic = _load(_Unpickler(file, file_size))
    if magic != _LEGACY_MAGIC or _load(_Unpickler(file, file_size)) != _LEGACY_PROTOCOL:
        raise _Refused("a pickle, but not one of PyTorch's")
    machine = _load(_Unpickler(file, file_size))
    if not machine["little_endian"]:
        raise _Refused("written on a big-endian machine, which this reader does not know")
    unpickler = _Unpickler(file, file_size)
    tree = _load(unpickler)
    buffers = {}
    for key in _load(_Unpickler(file, file_size)):
        storage = unpickler.storages[key]
        count = int.from_bytes(file.read(8), "little")
        data = file.read(storage.length * storage.dtype.itemsize)
        if count != storage.length or len(data) != storage.length * storage.dtype.itemsize:
            raise _Refused(f"cut short or damaged: storage {key} is not whole")
        buffers[key] = data
    return _arrays(tree, buffers.__getitem__)


def _read_zip(file: _File, file_size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Refused("a zip file, but not one of PyTorch's: it has no 'data.pkl'")
        root = pickles[0].removesuffix("data.pkl")

        def read(name: str) -> bytes:
            info = archive.getinfo(root + name)
            # PyTorch never compresses; a compressed entry could unfold to any size.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > file_size:
                raise _Refused(f"damaged: its entry '{info.filename}' is compressed")
            return archive.read(info)

        if root + "byteorder" in archive.namelist() and read("byteorder") != b"little":
            raise _Refused("written on a big-endian machine, which this reader does not know")
        tree = _load(_Unpickler(io.BytesIO(read("data.pkl")), file_size))
        return _arrays(tree, lambda key: read(f"data/{key}"))


def _arrays(tree: Any, read: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    """The tensors of `tree` over the bytes that `read` gives for their storages."""
    if isinstance(tree, dict):
        states = [tree[key] for key in _STATE_KEYS if isinstance(tree.get(key), dict)]
        tree = states[0] if states else tree
    if not isinstance(tree, dict):
        raise _Refused(f"holds a {type(tree).__name__}; expected a state dictionary")
    strangers = [str(name) for name, value in tree.items() if not isinstance(value, _Tensor)]
    if strangers:
        raise _Refused(f"expected a dictionary of tensors, but these are none: {strangers[:5]}")
    buffers: dict[str, bytes] = {}
    arrays = {}
    for name, tensor in tree.items():
        storage, itemsize = tensor.storage, tensor.storage.dtype.itemsize
        if storage.key not in buffers:
            buffers[storage.key] = read(storage.key)
        if len(buffers[storage.key]) != storage.length * itemsize:
            raise _Refused(f"cut short or damaged: storage {storage.key} is not whole")
        arrays[str(name)] = np.ndarray(
            tensor.shape,
            storage.dtype,
            buffers[storage.key],
            offset=tensor.offset * itemsize,
            strides=[itemsize * stride for stride in tensor.strides],
        )
    return arrays


def _first_bytes(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(24)
    return f"It begins with {start!r}." if start else "It is empty."
