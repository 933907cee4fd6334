"""Read and write `.safetensors` files: a JSON header and numbers, no code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jaxcap.files import open_file, replacing
from jaxcap.files.json_data import MAX_BYTES, parse_json
from jaxcap.files.machine_memory import check_memory
from jaxcap.messages.errors import InputError


def read_safetensors_file(path: str | Path) -> dict[str, np.ndarray]:
    """Read all tensors, name to array; bfloat16 as `ml_dtypes.bfloat16`.

    Raises:
        InputError: the file is missing, cut short, damaged, or has a type unknown to NumPy.
    """
    with _opened(Path(path)) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_about(path: str | Path) -> dict[str, Any] | None:
    """Return the `about` given to `write_safetensors_file`; None if it did not write this file.

    Raises:
        InputError: the file is missing, cut short or damaged.
    """
    with _opened(Path(path)) as file:
        text = (file.metadata() or {}).get("jaxcap")
    try:
        about = None if text is None else parse_json(text)
    except ValueError as error:
        raise InputError(
            f"{path}: damaged: the entry 'jaxcap' in its header is not JSON ({error})."
        ) from None
    return about if isinstance(about, dict) else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with open_file(path) as file:  # the library would wait for a pipe
            size = int.from_bytes(file.read(8), "little")
            is_plausible = size <= MAX_BYTES or file.read(1) == b"{"
            check_memory(path, file)
        if not is_plausible:
            raise InputError(f"{path}: not a .safetensors file.")
        if size > MAX_BYTES:
            raise InputError(
                f"{path}: damaged: its header has {size:,} bytes; expected at most {MAX_BYTES:,}."
            )
        # The library checks the header: every byte belongs to exactly one tensor.
        with safetensors.safe_open(path, framework="numpy") as opened:
            yield opened
    except InputError:
        raise
    except AttributeError as error:  # the library asks NumPy for the type by its name
        raise InputError(
            f"{path}: NumPy does not know the type {error.name} of its tensors; convert them to "
            "float32."
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:
        raise InputError(f"{path}: damaged or cut short: {_sentence(error)}.") from error


def write_safetensors_file(
    path: Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> None:
    """Write a file atomically; see `jaxcap.files.replacing`.

    Equal tensors and equal `about` give equal bytes.

    Args:
        about: a description in JSON types, kept in the file's header under the name `jaxcap`.

    Raises:
        OSError: the disk is full, or permission is denied.
    """
    # Only one entry: the library writes several in an order that changes from run to run.
    metadata = {"jaxcap": json.dumps(about, sort_keys=True)}
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    try:
        with replacing(path) as beside:
            mode = beside.stat().st_mode
            safetensors.numpy.save_file(contiguous, beside, metadata)
            beside.chmod(mode)  # the library makes it readable only by its owner
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


def _sentence(error: Exception) -> str:
    text = f"{error}" or type(error).__name__
    return text.removeprefix("Error while deserializing header: ").removesuffix(".")
