"""The files and folders of a source: there, or named as missing."""

from __future__ import annotations

from pathlib import Path

from jaxcap.datasets.sources import SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.errors import InputError


def need_source(options: SourceOptions, expected: str) -> Path:
    """The folder of the source.

    Raises:
      InputError: none was given, or it is none.
    """
    if options.source is None:
        raise InputError(f"expected --source DIR, {expected}")
    if not options.source.is_dir():
        found = "is a file" if options.source.exists() else "does not exist"
        way_out = "; a file of captions is named by --captions" if options.source.exists() else ""
        raise InputError(f"{options.source}: the source {found}; expected {expected}{way_out}")
    return options.source


def need_folder(path: Path, findings: Findings, hint: str = "") -> Path | None:
    """The folder, or None and a problem if there is none."""
    if path.is_dir():
        return path
    findings.add(path, "", f"no such folder{f' ({hint})' if hint else ''}")
    return None


def need_file(path: Path, findings: Findings) -> Path | None:
    """The file, or None and a problem if there is none."""
    if path.is_file():
        return path
    findings.add(path, "", "no such file")
    return None
