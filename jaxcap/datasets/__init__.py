"""How files become a data set: sources, building, preparation and inspection."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Receives (task, units done, units in total) as long work proceeds."""


def no_progress(task: str, done: int, total: int) -> None:
    """Ignore progress."""
