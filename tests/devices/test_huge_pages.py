"""Restart with huge pages: only where they are available, once, and with the same arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcap.devices import huge_pages

GLIBC = ("glibc", "2.36")
MADVISE = "always [madvise] never\n"


@pytest.mark.parametrize(
    ("environment", "libc", "kernel", "available"),
    [
        ({}, GLIBC, MADVISE, True),
        ({}, ("glibc", "2.35"), MADVISE, True),
        ({}, ("glibc", "2.4"), MADVISE, False),  # versions are compared as numbers
        ({}, ("", ""), MADVISE, False),  # musl, macOS, Windows
        ({}, GLIBC, "[always] madvise never\n", False),  # on for every process already
        ({}, GLIBC, "always madvise [never]\n", False),
        ({}, GLIBC, "", False),
        ({"GLIBC_TUNABLES": ""}, GLIBC, MADVISE, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}, GLIBC, MADVISE, False),
    ],
)
def test_availability(
    environment: dict[str, str], libc: tuple[str, str], kernel: str, available: bool
) -> None:
    assert huge_pages.are_available(environment, libc, kernel) is available


def test_restarts_once_with_the_same_arguments(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    kernel = tmp_path / "enabled"
    kernel.write_text(MADVISE)
    script.write_text(
        "import os, platform, sys\n"
        "from pathlib import Path\n"
        "from jaxcap.devices import huge_pages\n"
        "platform.libc_ver = lambda: ('glibc', '2.36')\n"
        "print('started', os.getpid(), flush=True)\n"
        f"huge_pages.restart_with_huge_pages(Path({str(kernel)!r}))\n"
        "print(os.environ['GLIBC_TUNABLES'], sys.flags.dev_mode, sys.argv[1:], sys.stdin.read())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(script), "a b", "--c=ü"],
        input="piped",
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=True,
    )
    first, second, last = done.stdout.splitlines()
    assert first == second  # the same process, started twice
    assert first.startswith("started ")
    assert last == "glibc.malloc.hugetlb=1 True ['a b', '--c=ü'] piped"
