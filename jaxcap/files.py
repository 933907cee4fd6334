"""Atomic writes, image files below a folder, file locks and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def locked(file: int | IO[Any], waiting: Callable[[], None] | None = None) -> bool:
    """Lock an open file against other processes, until it is closed or this process ends.

    Windows and some network file systems have no locks; there, this has no effect.

    Args:
      waiting: called before waiting for another process that holds the lock. None: do not wait.

    Returns:
      False if another process holds the lock and `waiting` is None.

    Raises:
      OSError: flock(2) failed for another reason than missing support.
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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write, which replaces `path` if the `with` block succeeds.

    Readers of `path` find the old file or the new one, never a part. After an error `path` is
    unchanged, and the temporary file is deleted.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, see `replacing`.

    Raises:
      OSError: the disk is full, or permission is missing.
    """
    with replacing(path) as beside:
        # File names may contain bytes that are not valid text; they become "?".
        beside.write_text(text, encoding="utf-8", errors="replace")


def cache_dir(name: str) -> Path | None:
    """Return `$XDG_CACHE_HOME/jaxcap/NAME`, by default `~/.cache/jaxcap/NAME`.

    None if there is neither the variable nor a home directory.
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return root / "jaxcap" / name
