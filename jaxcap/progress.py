"""Show progress: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

_PLAIN_SECONDS = 15.0
_LONG = 2.0
"""Seconds from which on `timed` prints the duration."""
_WIDE, _BAR = 80, 8
"""Width in columns from which on a terminal has room for a bar, and the width of the bar."""


def print_line(console: Console, text: str) -> None:
    """Print a line unchanged: without rich's markup, which may occur in file names, and without
    line breaks in long paths."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


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

    def __init__(self, console: Console, label: str, *, total: int, done: int = 0):
        """Args: total and done count the same units, such as steps."""
        self._console, self._label, self._total = console, label, total
        self._live = console.is_terminal
        self._begin, self._begin_done, self._printed = time.monotonic(), done, time.monotonic()
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
        if not self._live and now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            rate = (done - self._begin_done) / max(1e-9, now - self._begin)
            left = (self._total - done) / rate if rate > 0 else float("inf")
            self.line(f"{self._label} {done}/{self._total}  {note}  left {_clock(left)}")

    def _fitting(self, note: str) -> str:
        """Cut a note to the width of the terminal; rich would cut the other columns instead."""
        width = self._console.width
        taken = len(f"{self._label} {self._total}/{self._total} 00:00:00 left ")
        room = width - taken - (_BAR + 1 if width >= _WIDE else 0)
        return note if len(note) <= room else note[: max(0, room - 1)] + "…"

    def advance(self, done: int) -> None:
        """Move the live line without a new note; callable from any thread."""
        self._progress.update(self._task, completed=done)

    def line(self, text: str) -> None:
        """Print a line above the live line."""
        print_line(self._progress.console, text)


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


Report = Callable[[int, str], None]
"""`report(done, note)`: called by library functions to report their progress."""
