"""Check that the files and folders of a source exist."""

from __future__ import annotations

from pathlib import Path

from jaxcap.datasets.sources import SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.messages.errors import InputError, did_you_mean


def need_source(options: SourceOptions, expected: str) -> Path:
    """Return the folder of the source.

    Raises:
      InputError: no folder was given, or it does not exist.
    """
    if options.source is None:
        raise InputError(f"no source given; expected --source DIR, {expected}")
    if not options.source.is_dir():
        found = "is a file" if options.source.exists() else "does not exist"
        way_out = ". Give a caption file with --captions" if options.source.exists() else ""
        raise InputError(
            f"{options.source}: the source {found}; expected {expected}{way_out}"
            f"{_near(options.source)}"
        )
    return options.source


def need_path(options: SourceOptions, expected: str) -> Path:
    """Return the file or folder of the source.

    Raises:
      InputError: none was given, or it does not exist.
    """
    if options.source is None:
        raise InputError(f"no source given; expected --source PATH, {expected}")
    if not options.source.exists():
        raise InputError(
            f"{options.source}: the source does not exist; expected {expected}"
            f"{_near(options.source)}"
        )
    return options.source


def need_folder(path: Path, findings: Findings, hint: str = "") -> Path | None:
    """Return the folder; if it does not exist, add a problem and return None."""
    if path.is_dir():
        return path
    findings.add(path, "", f"no such folder{f' ({hint})' if hint else ''}{_near(path)}")
    return None


def need_file(path: Path, findings: Findings) -> Path | None:
    """Return the file; if it does not exist, add a problem and return None."""
    if path.is_file():
        return path
    found = "a folder; expected a file" if path.is_dir() else "no such file"
    findings.add(path, "", f"{found}{_near(path)}")
    return None


def _near(path: Path) -> str:
    near = did_you_mean(path)
    return f".{near}" if near else ""
