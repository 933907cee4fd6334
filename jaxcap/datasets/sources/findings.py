"""Collect the problems of all files of a source, so that a user can fix them in one go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jaxcap.caption_files.text_files import SHOWN, Problems
from jaxcap.messages.errors import InputError, message_line


class Findings:
    """Problems with their files and lines, and gaps: examples that the user may choose to skip."""

    def __init__(self, source: Path, *, skip_gaps: bool) -> None:
        """Start without problems.

        Args:
          source: the name of the source in messages.
          skip_gaps: report gaps as notes instead of problems.
        """
        self._source, self._skip_gaps = source, skip_gaps
        self._problems: list[str] = []
        self._gaps: list[str] = []
        self._notes: list[str] = []

    def add(self, path: Path, place: str, text: str) -> None:
        """Add a problem at a place ("line 3", or "") of a file: what was found and expected."""
        self._problems.append(_line(path, place, text))

    def add_gap(self, path: Path, place: str, text: str) -> None:
        """Add a missing image, or an image without a caption."""
        self._gaps.append(_line(path, place, text))

    def add_note(self, text: str) -> None:
        """Add something that is worth knowing but not a problem."""
        self._notes.append(message_line(text))

    def add_all(self, problems: Problems | InputError) -> None:
        """Add the problems of one file."""
        if isinstance(problems, InputError):
            self._problems += problems.args
        else:
            self._problems += [f"{problems.path}, {each}" for each in problems.found]
            self._gaps += [f"{problems.path}, {each}" for each in problems.gaps]

    def __bool__(self) -> bool:
        return bool(self._problems or (self._gaps and not self._skip_gaps))

    def raise_if_any(self) -> None:
        """Call `fail` if there are problems."""
        if self:
            self.fail()

    def fail(self) -> NoReturn:
        """Raise an `InputError` with the first ten problems, their total, and the notes."""
        found = self._problems + ([] if self._skip_gaps else self._gaps)
        if len(found) == 1:
            way_out = "" if self._problems else " (--skip-bad leaves such images out)"
            lines = [found[0] + way_out]
        else:
            lines = [f"{self._source}: {len(found):,} problems:", *some(found)]
            if self._gaps and not self._problems:
                lines.append("Leave these images out with --skip-bad")
        raise InputError(*lines, *self._notes)

    def notes(self) -> tuple[str, ...]:
        """Return the notes, and one about the gaps if there are any."""
        if not self._gaps:
            return tuple(self._notes)
        gaps = "\n".join(["left out:", *some(self._gaps)])
        return (*self._notes, gaps)


def _line(path: Path, place: str, text: str) -> str:
    return f"{path}, {place}: {text}" if place else f"{path}: {text}"


def some(lines: Sequence[str]) -> list[str]:
    """Return the first ten lines, indented, and the number of the others."""
    shown = [f"  {message_line(line)}" for line in lines[:SHOWN]]
    return shown if len(lines) <= SHOWN else [*shown, f"  … and {len(lines) - SHOWN:,} more"]
