"""A manifest with checksums of all files in a directory, so that damage is detected and named.

CRC-32 detects any burst of up to 32 flipped bits, and other damage with a probability of all but
one in four billion. It protects against accidents, not against someone who can write the files.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxcap.files import open_file, write_text
from jaxcap.files.json_data import from_dict, read_json
from jaxcap.files.machine_memory import machine_bytes
from jaxcap.messages.errors import InputError

NAME = "manifest.json"
_BLOCK = 1 << 20
_MAX_BYTES = 1 << 21  # room for 20,000 files


@dataclass(frozen=True)
class Content:
    """The content of a manifest.

    Attributes:
      step: optimizer steps taken.
      metrics: the scores of this step, if they are known.
      note: JSON values of the training loop.
    """

    step: int
    metrics: dict[str, float] | None = None
    note: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, tuple[int, int]]
    content: Content


def write_manifest(directory: Path, content: Content) -> None:
    """Write `manifest.json`: sizes and checksums of all files, `content`, and a checksum of both.

    Raises:
      OSError: a file cannot be read, or there is no room.
    """
    files = {
        str(path.relative_to(directory)): (path.stat().st_size, checksum(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / NAME
    }
    _write(directory, files, content)


def change_content(directory: Path, content: Content) -> None:
    """Replace the content of a manifest and keep the checksums of the files."""
    _write(directory, _read(directory).files, content)


def read_content(directory: Path) -> Content | None:
    """Return the content of the manifest, or None if it is missing or damaged."""
    try:
        return _read(directory).content
    except InputError:
        return None


def damage(directory: Path, parts: Sequence[str] | None = None) -> str | None:
    """Return what is wrong with a directory that has a manifest, or None.

    Args:
      parts: the subdirectories to check; by default all.
    """
    try:
        files = _read(directory).files
    except InputError:
        is_there = os.path.exists(directory / NAME)
        return f"{NAME} is {'not what was written' if is_there else 'missing'}"
    for folder, _, names in os.walk(directory):
        for name in names:
            if not os.path.isfile(place := os.path.join(folder, name)):  # Orbax waits for pipes
                return f"{os.path.relpath(place, directory)} is not a regular file"
    left = machine_bytes() or sys.maxsize  # what does not fit in there cannot be loaded
    found_crcs: dict[tuple[int, int, int], int] = {}  # a file may have many names and links
    for name, (size, crc) in files.items():
        if not _is_below(directory, name):
            return f"{NAME} names {name!r}, which is not a file in this directory"
        below = Path(name).parts[:-1]
        if parts is not None and below and below[0] not in parts:
            continue
        path = directory / name
        try:
            status = path.stat()
            if path.is_file() and status.st_size != size:
                return f"{name} has {status.st_size} bytes, {size} were written"
            file = status.st_dev, status.st_ino, status.st_size
            if file not in found_crcs:
                if (left := left - size) < 0:
                    return f"{name} and the files before it exceed this machine's memory"
                found_crcs[file] = checksum(path)
            if found_crcs[file] != crc:
                return f"{name} is not what was written (its checksum differs)"
        except InputError:
            return f"{name} is not a regular file"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file, reading it in blocks.

    Raises:
      InputError: it is not a regular file.
      OSError: it cannot be read.
    """
    crc = 0
    with open_file(path) as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def _is_below(directory: Path, name: str) -> bool:
    """Return whether `name` leads to a place below the directory, also if links are followed."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        return False
    try:
        real, top = os.path.realpath(directory / path), os.path.realpath(directory)
    except ValueError:  # a null character or a lone surrogate
        return False
    return real != top and Path(real).is_relative_to(top)


def _write(directory: Path, files: Mapping[str, tuple[int, int]], content: Content) -> None:
    body = {"files": files, "content": asdict(content)}
    write_text(directory / NAME, json.dumps({**body, "crc": _crc(body)}, indent=1) + "\n")


def _read(directory: Path) -> _Manifest:
    path = directory / NAME
    values = read_json(path, "manifest", at_most=_MAX_BYTES)
    if not isinstance(values, dict) or values.pop("crc", None) != _crc(values):
        raise InputError(f"{path}: its own checksum differs")
    return from_dict(_Manifest, values, where=str(path))


def _crc(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
