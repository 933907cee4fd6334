"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes beside, then renames: whoever reads `path` finds the old text or the new one.

    Raises:
      OSError: no room or no permission; `path` is as it was, and nothing lies beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # File names may hold bytes that are no text in any encoding: those become "?".
        beside.write_text(text, encoding="utf-8", errors="replace")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
