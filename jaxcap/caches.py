"""Where this library keeps what it can make again: below the user's cache directory."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir(name: str) -> Path | None:
    """`$XDG_CACHE_HOME/jaxcap/NAME`, by default `~/.cache/jaxcap/NAME`; None without a home."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return root / "jaxcap" / name
