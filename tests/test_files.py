"""Atomic writes and file locks."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from jaxcap.files import locked, write_text


def test_a_file_is_replaced_without_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("old", "né\udcff"):
        write_text(path, text)
    assert path.read_bytes() == "né?".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def full(self: Path, text: str, **options: str) -> None:
        self.write_bytes(text.encode()[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new text")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_holds_until_the_file_is_closed(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "lock"
    with path.open("w") as mine:
        assert locked(mine)
        with path.open() as other:
            assert not locked(other)
            # It waits, and `waiting` releases the first lock.
            assert locked(other, waiting=mine.close)


def test_without_support_for_locks_every_lock_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(file: object, operation: int) -> None:
        raise OSError(number, "not so")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (tmp_path / "lock").open("w") as file:
        number = errno.ENOSYS
        assert locked(file)
        number = errno.EIO
        with pytest.raises(OSError, match="not so"):
            locked(file)
