"""Paths as users give them: `~` is expanded; addresses such as gs://bucket, and "", are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from jaxcap.messages.errors import InputError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # `Path` turns // into /; C:/ is a drive
_OPTION = re.compile(r"(--[\w.-]+)=(.*)", re.DOTALL)
_TEXTS = (
    *("--prefix", "--suffix", "--note", "--allow-origin"),
    *("--image-column", "--caption-columns", "--split-column"),  # pandas names its index ""
)
"""Options that are no paths, whatever they begin with; they may be empty."""


def path_problem(text: str) -> str:
    """Return why a text is not a path: it is empty, or an address such as gs://bucket/run; else "".

    `Path("")` would be the current folder.
    """
    if not text:
        return "an empty name, perhaps that of a variable that is not set"
    if not _ADDRESS.match(text):
        return ""
    return (
        "an address, not a file or folder; jaxcap reads and writes files only. Mount the bucket, "
        "for example with gcsfuse, or copy the files"
    )


def check_path(text: str, option: str = "") -> None:
    """Refuse a text, given with `option`, that is not a path.

    Raises:
      InputError: it is empty or an address.
    """
    if problem := path_problem(text):
        shown = " ".join(filter(None, [option, text or "''"]))
        raise InputError(f"{shown}: {problem}.")


def local_path(path: str | os.PathLike[str], option: str = "") -> Path:
    """Return a path without `~`.

    Args:
      path: a path as the user gave it.
      option: names the option or variable in error messages.

    Raises:
      InputError: it is empty or an address, or begins with `~` where there is no home directory.
    """
    text = os.fspath(path)
    check_path(text, option)
    expanded = os.path.expanduser(text)
    if Path(expanded).parts[:1] == ("~",):
        raise InputError(
            f"{option} {text}: there is no home directory for ~; give the full path.".lstrip()
        )
    return Path(expanded)


def local_arguments(arguments: Sequence[str]) -> list[str]:
    """Expand `~` in the arguments of a command, which shells leave in `--option=~/x`.

    Raises:
      InputError: an argument is empty or an address, or has a `~` where there is no home directory.
    """
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        attached = _OPTION.fullmatch(argument)
        option, value = attached.groups() if attached else (before, argument)
        if option not in _TEXTS and (not value or value.startswith("~") or _ADDRESS.match(value)):
            value = str(local_path(value, option if option.startswith("--") else ""))
        found.append(f"{option}={value}" if attached else value)
    return found
