"""The machine's memory, and files that do not fit into it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from jaxcap.messages.errors import InputError

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_bytes() -> int | None:
    """Return the memory of the machine or container; None if the system does not report it."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):  # Windows
        return None
    texts = (Path(path).read_text() for path in _LIMITS if os.path.exists(path))
    return min([*found, *(int(text) for text in texts if text.strip().isdecimal())])


def check_memory(path: Path, file: IO[bytes]) -> None:
    """Check that a file that is read as a whole fits into the machine's memory.

    A sparse file of terabytes takes a few kilobytes of a disk.

    Raises:
      InputError: it does not.
    """
    size, available = os.fstat(file.fileno()).st_size, machine_bytes()
    if available is not None and size > available:
        raise InputError(
            f"{path}: has {size / 1e9:,.1f} GB, but this machine has only "
            f"{available / 1e9:,.1f} GB of memory."
        )
