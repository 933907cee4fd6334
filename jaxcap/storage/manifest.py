"""A manifest with checksums of all files in a directory, so that damage is detected and named.

CRC-32 detects any burst of up to 32 flipped bits, and other damage with a probability of all but
one in four billion. It protects against accidents, not against someone who can write the files.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcap.files import write_text

NAME = "manifest.json"
_BLOCK = 1 << 20


def write_manifest(directory: Path, content: dict[str, Any]) -> None:
    """Write `manifest.json`: sizes and checksums of all files, `content`, and a checksum of both.

    Raises:
      OSError: a file cannot be read, or there is no room.
    """
    files = {
        str(path.relative_to(directory)): [path.stat().st_size, checksum(path)]
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / NAME
    }
    _write(directory, {"files": files, "content": content})


def change_content(directory: Path, content: dict[str, Any]) -> None:
    """Replace the content of a manifest and keep the checksums of the files."""
    _write(directory, {"files": _read(directory)["files"], "content": content})


def read_content(directory: Path) -> dict[str, Any] | None:
    """Return the content of the manifest, or None if it is missing or damaged."""
    try:
        content: dict[str, Any] = _read(directory)["content"]
    except (OSError, ValueError):
        return None
    return content


def damage(directory: Path, parts: Sequence[str] | None = None) -> str | None:
    """Return what is wrong with a directory that has a manifest, or None.

    Args:
      parts: the subdirectories to check; by default all.
    """
    try:
        files = _read(directory)["files"]
    except OSError:
        return f"{NAME} is missing"
    except ValueError:
        return f"{NAME} is not what was written"
    for name, (size, crc) in files.items():
        if not _is_below(directory, name):
            return f"{NAME} names {name!r}, which is not a file in this directory"
        below = Path(name).parts[:-1]
        if parts is not None and below and below[0] not in parts:
            continue
        path = directory / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a FIFO would never end
                return f"{name} is not a regular file"
            found = status.st_size
            if found != size:
                return f"{name} has {found} bytes, {size} were written"
            if checksum(path) != crc:
                return f"{name} is not what was written (its checksum differs)"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file, reading it in blocks."""
    crc = 0
    with path.open("rb") as file:
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


def _write(directory: Path, body: dict[str, Any]) -> None:
    write_text(directory / NAME, json.dumps({**body, "crc": _of(body)}, indent=1) + "\n")


def _read(directory: Path) -> dict[str, Any]:
    text = (directory / NAME).read_text(encoding="utf-8")
    try:
        found = json.loads(text)
        if not isinstance(found, dict) or found.pop("crc", None) != _of(found):
            raise ValueError("the manifest's own checksum differs")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    files, content = found.get("files"), found.get("content")
    if not (
        isinstance(content, dict)
        and isinstance(files, dict)
        and all(
            isinstance(entry, list)
            and len(entry) == 2
            and all(isinstance(number, int) for number in entry)
            for entry in files.values()
        )
    ):
        raise ValueError("not a table of files with sizes and checksums")
    return found


def _of(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
