"""Files that are whole or not there, those that are images, and locks."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def locked(file: int | IO[Any], waiting: Callable[[], None] | None = None) -> bool:
    """Keeps other processes out of an open file, until it is closed or this process ends, however.

    Where there are no locks, on Windows and on some file systems of networks, nobody is kept out.

    Args:
      waiting: called before waiting for another process that has it, if that is wished.

    Returns:
      False if another process has it, and nobody waits.

    Raises:
      OSError: as flock(2) does, but for there being no locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            return False
        waiting()
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


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


def cache_dir(name: str) -> Path | None:
    """`$XDG_CACHE_HOME/jaxcap/NAME`, by default `~/.cache/jaxcap/NAME`; None without a home."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return root / "jaxcap" / name
