"""Use huge pages on Linux: a training step on a CPU takes a third less time.

XLA allocates gigabytes at the start of each step and frees them at its end, and the kernel maps
them in pages of 4 kB every time. glibc 2.35 and newer asks for pages of 2 MB if `GLIBC_TUNABLES`
says so, but reads the variable only when a process starts. See "Memory Allocation Tunables" in the
glibc manual; `docs/benchmarks.md` has measurements.

Commands call this module before anything else, so it imports only the standard library.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb=1"
_VARIABLE = "GLIBC_TUNABLES"
KERNEL_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages(kernel_setting: Path = KERNEL_SETTING) -> None:
    """Restart this process with the same arguments and huge pages.

    Do nothing if the C library or the kernel lacks support, or if `GLIBC_TUNABLES` is set: an
    empty value disables huge pages.
    """
    if are_available(os.environ, platform.libc_ver(), _read(kernel_setting)):
        environment = {**os.environ, _VARIABLE: TUNABLE}
        with contextlib.suppress(OSError):  # without permission to restart, continue
            # The original arguments keep Python's own options (-X, -W).
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def are_available(environment: Mapping[str, str], libc: tuple[str, str], kernel: str) -> bool:
    """Return whether huge pages are available on request, and not requested yet."""
    name, version = libc
    return (
        _VARIABLE not in environment
        and name == "glibc"
        and tuple(int(part) for part in version.split(".")[:2]) >= (2, 35)
        and "[madvise]" in kernel
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
