"""Read weight files of any format, recognised by their first bytes and not by their suffix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from jaxcap.files import open_file, open_zip
from jaxcap.files.machine_memory import check_memory
from jaxcap.files.safetensors_files import read_safetensors_file
from jaxcap.messages.errors import InputError, did_you_mean
from jaxcap.model.encoders.weights import hdf5
from jaxcap.model.encoders.weights.keras_files import read_keras_file
from jaxcap.model.encoders.weights.torch_files import read_torch_file
from jaxcap.model.encoders.weights.torch_names import plain_torch_names

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".h5", ".hdf5", ".keras")

# The names and axes of tensors. "torch": `layer1.0.conv1.weight`, convolutions
# [out, in, height, width]. "keras": `conv1_conv/kernel`, [height, width, in, out]. "keras order":
# the same, with layers named `conv2d_N` in the order of `model.layers`.
Naming: TypeAlias = Literal["torch", "keras", "keras order"]

_CLASSIFIERS: dict[str, re.Pattern[str]] = {
    "torch": re.compile(r"(fc|_fc|classifier|head|pre_logits|AuxLogits)\."),
    "keras": re.compile(r"(predictions|fc1|fc2|fc1000|dense(_\d+)?)/"),
}


@dataclass(frozen=True)
class WeightFile:
    """The contents of a weight file.

    Attributes:
        path: the file.
        format: the name of its format, for messages.
        naming: the convention for the names and axes of its tensors.
        tensors: name to read-only array, without the classifier and counters of training steps.
        classifier: the tensors of the layers that turn features into classes.
    """

    path: Path
    format: str
    naming: Naming
    tensors: dict[str, np.ndarray]
    classifier: dict[str, np.ndarray]


def read_weight_file(path: str | Path) -> WeightFile:
    """Read a weight file without running any code in it.

    Raises:
        InputError: the file is missing, cut short, damaged, or not a weight file.
    """
    path = Path(path)
    kind = _recognise(path)
    naming: Naming
    if kind == "HDF5":
        keras = read_keras_file(path)
        tensors, format = keras.tensors, keras.layout
        naming = "keras order" if keras.in_order else "keras"
    elif kind == "safetensors":
        tensors, format = read_safetensors_file(path), "safetensors"
        naming = "keras" if tensors and all("/" in name for name in tensors) else "torch"
    else:
        tensors, format, naming = read_torch_file(path), kind, "torch"
    if naming == "torch":
        tensors = plain_torch_names(tensors)
    if not tensors:
        raise InputError(f"{path}: holds no tensors.")
    is_classifier = _CLASSIFIERS["torch" if naming == "torch" else "keras"].match
    return WeightFile(
        path,
        format,
        naming,
        {name: value for name, value in tensors.items() if not is_classifier(name)},
        {name: value for name, value in tensors.items() if is_classifier(name)},
    )


def _recognise(path: Path) -> str:
    """Return `"HDF5"`, `"safetensors"`, or the layout of PyTorch's."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: a folder; give a weight file in it.{_files_in(path)}")
        with open_file(path) as file:
            start = file.read(512)
            check_memory(path, file)
    except FileNotFoundError:
        near = did_you_mean(path)
        raise InputError(f"{path}: cannot be read: there is no such file.{near}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if start.startswith(hdf5.SIGNATURE):
        return "HDF5"
    if start.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return "PyTorch .pth (legacy)"
    # Eight bytes with the length of the header, always below 16 MB, then the header in JSON.
    if start[8:9] == b"{" and start[3:8] == bytes(5):
        return "safetensors"
    raise InputError(f"{path}: {_stranger(start)}")


def _kind_of_zip(path: Path) -> str:
    try:
        with open_file(path) as file, open_zip(file) as archive:
            names = archive.namelist()
    except Exception as error:  # damaged bytes make zipfile raise nearly anything
        raise InputError(
            f"{path}: an incomplete zip file (.pth and .keras files are zip files): {error}."
            " Was the download cut short?"
        ) from None
    if "model.weights.h5" in names:
        return "HDF5"
    if any(name.endswith("data.pkl") for name in names):
        return "PyTorch .pth (zip)"
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    raise InputError(
        f"{path}: a zip file, but not from PyTorch ('data.pkl') or Keras"
        f" ('model.weights.h5'): it has {some or 'no entries'}."
    )


def _stranger(start: bytes) -> str:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "it is empty. Was the download cut short?"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not weights. Download the file itself, not the page about it."
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        return "a compressed archive. Unpack it, and give the weight file in it."
    return (
        f"not a weight file: it begins with {start[:16]!r}. Expected a Keras .h5, .weights.h5 or"
        " .keras file, a PyTorch .pth file, or a .safetensors file."
    )


def _files_in(folder: Path) -> str:
    found = sorted(p.name for p in folder.iterdir() if p.suffix in SUFFIXES)
    return f" It has: {', '.join(found[:5])}." if found else ""
