"""Files that are whole or not there, and those that are images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and all folders in it, by their suffixes, in order of name."""
    return sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place when all went well.

    Whoever reads `path` finds the old file or the new one. If anything fails, `path` is as it was,
    and nothing lies beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all, see `replacing`.

    Raises:
      OSError: no room or no permission.
    """
    with replacing(path) as beside:
        # File names may hold bytes that are no text in any encoding: those become "?".
        beside.write_text(text, encoding="utf-8", errors="replace")
