"""What users are told: errors, other messages, and progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""A callback for long work: (task, finished units, total units)."""


def no_progress(task: str, done: int, total: int) -> None:
    """Discard progress reports: the callback for work that shows none."""
