"""Print messages and progress: a live line on a terminal, plain lines elsewhere.

Text that comes from files never controls the terminal. A file name or a caption may hold escape
sequences, which move the cursor or rename the window, and bidirectional marks, which show text in
another order than it has. Both are printed as escapes such as `\\x1b` and `\\u202e`.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

_PLAIN_SECONDS = 15.0
_LONG = 2.0
"""Seconds from which on `timed` prints the duration."""
_WIDE, _BAR = 80, 8
"""Width in columns from which on a terminal has room for a bar, and the width of the bar."""

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"  # separators of lines, bidirectional marks
)


def escaped(text: str) -> str:
    """Write control characters, line separators, and bidirectional marks as escapes.

    Tabs and line feeds stay. JSON, which escapes other control characters itself, stays valid JSON.
    """
    return _CONTROL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return repr(character)[1:-1] if character < "\x7f" else f"\\u{ord(character):04x}"


def print_out(text: str, *, end: str = "\n") -> None:
    """Print to standard output: escaped if it is a terminal, else unchanged."""
    print(escaped(text) if sys.stdout.isatty() else text, end=end, flush=True)


class PlainConsole(Console):
    """A console that prints text as it is, but for control characters: without markup or emoji."""

    def __init__(self, *, stderr: bool = False):
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to a `Text`. Tables also call this, to measure their cells."""
        return super().render_str(escaped(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render anything; this also catches a `Text` that was built elsewhere."""
        for segment in super().render(renderable, options):
            # Rich's own cursor movements are control segments.
            yield segment if segment.control else Segment(escaped(segment.text), segment.style)


def print_line(console: Console, text: str) -> None:
    """Print a line without rich's markup, which may occur in file names, and without line breaks
    in long paths. Control characters are escaped."""
    console.print(escaped(text), highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextlib.contextmanager
def timed(console: Console, what: str) -> Iterator[None]:
    """Announce the work of a `with` block, and print its duration if it is long."""
    print_line(console, f"{what}…")
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    if seconds >= _LONG:
        print_line(console, f"  {seconds:.1f} s")


class Display:
    """Progress of one long task, for use in a `with` statement."""

    def __init__(self, console: Console, label: str, *, total: int | None, done: int = 0):
        """Args: total, None if unknown, and done count the same units, such as steps."""
        self._console, self._label = console, label
        self._of = "" if total is None else f"/{total}"
        self._total = float("inf") if total is None else total
        self._live = console.is_terminal
        # From the first update on: compilation comes before.
        self._begin: tuple[float, int] | None = None
        self._printed = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            *([BarColumn(bar_width=_BAR)] if console.width >= _WIDE else []),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=False, table_column=Column(min_width=7)),
            TextColumn("left"),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            disable=not self._live,
            transient=True,
        )
        self._task = self._progress.add_task(label, total=total, completed=done, note="")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __rich__(self) -> RenderableType:
        return self._progress.get_renderable()

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` units are done, with a short note."""
        self._progress.update(self._task, completed=done, note=self._fitting(note))
        now = time.monotonic()
        self._begin = self._begin or (now, done)
        if not self._live and now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            begin, begin_done = self._begin
            rate = (done - begin_done) / max(1e-9, now - begin)
            shown = [f"{self._label} {done}{self._of}", note]
            if self._of and rate and done < self._total:
                shown.append(f"left {_clock((self._total - done) / rate)}")
            self.line("  ".join(filter(None, shown)))

    def _fitting(self, note: str) -> str:
        """Cut a note to the width of the terminal; rich would cut the other columns instead."""
        width = self._console.width
        taken = len(f"{self._label}{2 * self._of} 00:00:00 left ")
        room = width - taken - (_BAR + 1 if width >= _WIDE else 0)
        return note if len(note) <= room else note[: max(0, room - 1)] + "…"

    def advance(self, done: int) -> None:
        """Move the live line without a new note; callable from any thread."""
        self._progress.update(self._task, completed=done)

    def line(self, text: str) -> None:
        """Print a line above the live line."""
        print_line(self._progress.console, text)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


Report = Callable[[int, str], None]
"""`report(done, note)`: called by library functions to report their progress."""
