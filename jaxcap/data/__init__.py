"""Data sets: TFDS builders, images, and the way from records to batches."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""How long work reports on itself: (what, done, total)."""


def no_progress(what: str, done: int, total: int) -> None:
    """A `Progress` that tells nobody."""
