"""The record of the model and options behind a file of captions: `FILE.made-with`, next to it.

A file is continued only with the same model and options. Otherwise it would hold captions of
several, or keep those of a model that has been replaced.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcap.files import write_text
from jaxcap.files.json_data import read_json
from jaxcap.messages.errors import InputError

_WAY_OUT = "To caption all images again, give --restart; to keep these captions, another --output."

_ABSENT = "not recorded"

Record = Mapping[str, Any]
"""JSON values by name, such as `captioning.identity.identity` returns."""


def record_of(path: Path) -> Path:
    """Return the path of a caption file's record."""
    return path.with_name(f"{path.name}.made-with")


def read_record(path: Path) -> Record | None:
    """Return the record of a caption file, or None if it is missing or damaged."""
    try:
        found = read_json(record_of(path), "record")
    except InputError:
        return None
    return found if isinstance(found, dict) else None


def write_record(path: Path, record: Record, *, emptied: int | None = None) -> None:
    """Write the record of a caption file.

    Args:
      emptied: the open caption file, to be emptied once there is room for the record. A record
        never describes older captions, and these are not lost if it cannot be written.

    Raises:
      OSError: the folder is not writable, or the disk is full.
    """
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    ready = None if emptied is None else functools.partial(os.ftruncate, emptied, 0)
    write_text(record_of(path), text, ready=ready)


def check_record(path: Path, record: Record) -> None:
    """Check that the captions in a file were made with the same model and options.

    Raises:
      InputError: they were not, or there is no record. The message lists the differences.
    """
    found = read_record(path)
    if found is None:
        raise InputError(
            f"{path}: it holds captions, but {record_of(path).name}, which says what they were "
            f"made with, is missing or damaged. {_WAY_OUT}"
        )
    if lines := _differences(found, json.loads(json.dumps(record))):
        raise InputError(
            f"{path}: its captions were made with other settings (then and now):",
            *(f"  {line}" for line in lines),
            _WAY_OUT,
        )


def common_record(paths: Sequence[Path]) -> Record | None:
    """Return the record that caption files share; None if none of them has one.

    Raises:
      InputError: their records differ.
    """
    first, *others = [(path, read_record(path) or {}) for path in paths]
    for path, record in others:
        if lines := _differences(first[1], record):
            raise InputError(
                f"{first[0]} and {path} were made with different settings (first and second):",
                *(f"  {line}" for line in lines),
                "Caption one of the two again, with the settings of the other.",
            )
    return first[1] or None


def _differences(found: Record, expected: Record) -> list[str]:
    return [
        f"{name}: {found.get(name, _ABSENT)!r}, {expected.get(name, _ABSENT)!r}"
        for name in {**found, **expected}
        if found.get(name, _ABSENT) != expected.get(name, _ABSENT)
    ]
