"""What is wrong with a source, over all of its files, so that it can be mended in one go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jaxcap.caption_files.text_files import SHOWN, Problems
from jaxcap.errors import InputError


class Findings:
    """Problems with their files and lines, and gaps: what can be left out if the user says so."""

    def __init__(self, source: Path, *, skip_gaps: bool) -> None:
        """Args:
        source: what messages call the whole.
        skip_gaps: gaps are left out and noted, not problems.
        """
        self._source, self._skip_gaps = source, skip_gaps
        self._problems: list[str] = []
        self._gaps: list[str] = []

    def add(self, path: Path, place: str, text: str) -> None:
        """Adds a problem: what was found at a place ("line 3", or "") of a file, and expected."""
        self._problems.append(_line(path, place, text))

    def add_gap(self, path: Path, place: str, text: str) -> None:
        """Adds an image that is absent, or one without a caption."""
        self._gaps.append(_line(path, place, text))

    def add_all(self, problems: Problems | InputError) -> None:
        """Adds those of one file."""
        if isinstance(problems, InputError):
            self._problems.append(str(problems))
        else:
            self._problems += [f"{problems.path}, {each}" for each in problems.found]

    def __bool__(self) -> bool:
        return bool(self._problems or (self._gaps and not self._skip_gaps))

    def raise_if_any(self) -> None:
        """Raises `InputError` with the first ten problems and their number, if there are any."""
        if self:
            self.fail()

    def fail(self) -> NoReturn:
        """Raises `InputError` with the first ten problems and their number."""
        found = self._problems + ([] if self._skip_gaps else self._gaps)
        if len(found) == 1:
            way_out = "" if self._problems else " (to go on without it: --skip-bad)"
            raise InputError(found[0] + way_out)
        lines = [f"{self._source}: {len(found):,} problems:", *some(found)]
        if self._gaps and not self._problems:
            lines.append("To go on without these images: --skip-bad")
        raise InputError("\n".join(lines))

    def notes(self) -> tuple[str, ...]:
        """What was left out, if that was allowed."""
        if not self._gaps:
            return ()
        return ("\n".join([f"left out ({len(self._gaps):,}):", *some(self._gaps)]),)


def _line(path: Path, place: str, text: str) -> str:
    return f"{path}, {place}: {text}" if place else f"{path}: {text}"


def some(lines: Sequence[str]) -> list[str]:
    """The first ten lines, indented, and how many more there are."""
    shown = [f"  {line}" for line in lines[:SHOWN]]
    return shown if len(lines) <= SHOWN else [*shown, f"  … and {len(lines) - SHOWN:,} more"]
