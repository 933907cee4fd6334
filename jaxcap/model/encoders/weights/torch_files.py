"""Read PyTorch's weight files without PyTorch, and without trusting them.

PyTorch has two layouts (`torch/serialization.py` writes both). *Legacy*, until PyTorch 1.5: five
pickles (magic number, protocol, machine, object, storage keys), then for each key a count and
its bytes. *Zip*, since: `NAME/data.pkl` and one uncompressed `NAME/data/KEY` per storage.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxcap.files import open_file, open_zip
from jaxcap.messages.errors import InputError
from jaxcap.model.encoders.weights.torch_pickle import (
    PickleReader,
    Refused,
    Storage,
    Tensor,
    shown,
)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_BIG_ENDIAN = "written on a big-endian machine, whose files cannot be read here"


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Read a PyTorch state dictionary, legacy or zip, as read-only NumPy arrays.

    A checkpoint with a state dictionary under `state_dict`, `model_state_dict` or `model` is
    opened there.

    Args:
        path: a `.pth` or `.pt` file written by `torch.save`.

    Returns:
        Name to array, in the order of the file; bfloat16 as `ml_dtypes.bfloat16`.

    Raises:
        InputError: the file is missing, cut short, damaged, not PyTorch's, holds anything
            other than tensors, or names anything that a state dictionary does not need.
    """
    path = Path(path)
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return (_read_zip if is_zip else _read_legacy)(file, size)
    except Refused as refusal:
        raise InputError(f"{path}: {refusal}.") from None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except Exception as error:
        # Damaged bytes make pickletools, zipfile and NumPy raise nearly anything.
        raise InputError(
            f"{path}: not a complete PyTorch file ({type(error).__name__}: {error})."
            f" {_first_bytes(path)} Was the download cut short?"
        ) from error


def _read_legacy(file: io.BufferedReader, file_size: int) -> dict[str, np.ndarray]:
    reader = PickleReader(file_size)
    for expected in (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        found = reader.read(file)
        if type(found) is not int or found != expected:
            raise Refused("a pickle, but not one of PyTorch's")
    machine = reader.read(file)
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise Refused(_BIG_ENDIAN)
    tree, keys = reader.read(file), reader.read(file)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise Refused("damaged: its list of storages is not a list of names")
    buffers = {}
    for key in keys:
        storage = reader.storages.get(key)
        if storage is None or key in buffers:
            raise Refused(f"damaged: storage {shown(key)} is not in use, or is listed twice")
        if int.from_bytes(file.read(8), "little") != storage.length:
            raise Refused(f"cut short or damaged: storage {shown(key)} has another length")
        buffers[key] = file.read(storage.length * storage.dtype.itemsize)
    return _arrays(tree, lambda storage: buffers.get(storage.key, b""))


def _read_zip(file: io.BufferedReader, file_size: int) -> dict[str, np.ndarray]:
    with open_zip(file) as archive:
        entries = archive.infolist()
        # Entries that overlap would unfold a small file to any size.
        if sum(entry.file_size for entry in entries) > file_size:
            raise Refused("damaged: its entries overlap, or are compressed")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused(
                f"a zip file, but not one of PyTorch's: it has {len(pickles) or 'no'} 'data.pkl'"
            )
        root = pickles[0].filename.removesuffix("data.pkl")

        def read(name: str) -> bytes:
            try:
                entry = archive.getinfo(root + name)
            except KeyError:
                raise Refused(f"cut short or damaged: it has no entry {shown(name)}") from None
            # PyTorch never compresses; a compressed entry could unfold to any size.
            if entry.compress_type != zipfile.ZIP_STORED:
                raise Refused(f"damaged: its entry {shown(name)} is compressed")
            return archive.read(entry)

        if root + "byteorder" in archive.namelist() and read("byteorder") != b"little":
            raise Refused(_BIG_ENDIAN)
        tree = PickleReader(file_size).read(io.BytesIO(read("data.pkl")))
        return _arrays(tree, lambda storage: read(f"data/{storage.key}"))


def _arrays(tree: Any, read: Callable[[Storage], bytes]) -> dict[str, np.ndarray]:
    """Build the tensors of `tree` over the bytes that `read` returns for their storages."""
    if type(tree) is dict:
        states = [tree[key] for key in _STATE_KEYS if type(tree.get(key)) is dict]
        tree = states[0] if states else tree
    if type(tree) is not dict:
        raise Refused(f"holds a {type(tree).__name__}; expected a state dictionary")
    others = [shown(str(name)) for name, value in tree.items() if type(value) is not Tensor]
    if others:
        raise Refused(
            f"expected a dictionary of tensors, but {len(others)} of {len(tree)} values are not:"
            f" {', '.join(others[:5])}"
        )
    buffers: dict[str, bytes] = {}
    arrays = {}
    for name, tensor in tree.items():
        storage, itemsize = tensor.storage, tensor.storage.dtype.itemsize
        if storage.key not in buffers:
            buffers[storage.key] = read(storage)
        if len(buffers[storage.key]) != storage.length * itemsize:
            raise Refused(f"cut short or damaged: storage {shown(storage.key)} is not whole")
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
