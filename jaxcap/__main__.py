"""The entry point of `jaxcap` and `python -m jaxcap`."""

from __future__ import annotations

import codecs
import contextlib
import gc
import os
import sys

from jaxcap.devices.huge_pages import restart_with_huge_pages


def main(*command: str) -> None:
    """Entry point of the `jaxcap` command.

    Args:
      command: arguments before those of the command line.
    """
    _restart_in_utf8()
    restart_with_huge_pages()
    # What imports and tracing make stays, so looking for garbage among it only takes time.
    gc.set_threshold(100_000)
    # Imported after the restart, which would repeat every import.
    from jaxcap.commands.cli import main as run

    run(*command)


def _restart_in_utf8() -> None:
    """Restart this process in Python's UTF-8 mode if its locale is ASCII (PEP 540).

    Names of files with other letters would otherwise not match those in tables. Python itself does
    the same for the C locale, unless the environment forbids it.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        with contextlib.suppress(OSError):  # without permission to restart, continue
            os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
