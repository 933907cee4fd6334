"""Atomic writes and file locks."""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path

import pytest
from limits import files_up_to

from jaxcap.files import (
    cache_dir,
    check_target,
    is_disk_full,
    lock_file,
    locked,
    naming,
    open_zip,
    replacing,
    write_text,
)
from jaxcap.messages.errors import InputError


def test_a_file_is_replaced_without_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("old", "né\udcff"):
        write_text(path, text)
    assert path.read_bytes() == "né\\udcff".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def full(self: Path, text: str, **options: str) -> None:
        self.write_bytes(text.encode()[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        write_text(path, "new text")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_with_one_process_id_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    """As in two containers; `replacing` twice in one process has one process id."""
    path = tmp_path / "a"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # left last
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path: Path) -> None:
    for given in ((), (str(tmp_path / "beside"),)):
        with pytest.raises(OSError, match="left") as caught, replacing(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "No space left", *given)
        name = given[0] if given else str(tmp_path / "a")
        assert str(caught.value) == f"[Errno {errno.ENOSPC}] No space left: '{name}'"


def test_a_file_that_grows_is_named_when_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with pytest.raises(OSError, match=f"large: '{path}'"), files_up_to(2):  # noqa: SIM117
        with naming(path), path.open("a") as file:
            file.write("long")


def test_a_folder_that_is_not_writable_is_reported_with_the_name_of_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "none" / "a.json"
    with pytest.raises(FileNotFoundError) as caught:
        write_text(path, "text")
    assert caught.value.filename == str(path)


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, victim = tmp_path / "a", tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda count: "guessed")
    with replacing(path) as beside:
        name = beside.name
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_text(path, "new")
    assert victim.read_text() == "mine"
    assert (tmp_path / name).is_symlink()


@pytest.mark.skipif(os.name != "posix", reason="no such files")
def test_only_a_regular_file_is_a_target(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link", "new"):
        check_target(tmp_path / name)
    for path, kind in ((tmp_path, "folder"), (tmp_path / "pipe", "pipe"), (Path("/dev/null"), "")):
        with pytest.raises(InputError, match=f"--to {path}: this is a {kind}.*give the name of a"):
            check_target(path, "--to")


@pytest.mark.parametrize("letter", ["a", "é", "語", os.fsdecode(b"\xff")])
def test_the_longest_file_names_work(tmp_path: Path, letter: str) -> None:
    path = tmp_path / (letter * (255 // len(os.fsencode(letter))))
    path.write_text("old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_open_gives(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        (tmp_path / "opened").write_text("")
        write_text(tmp_path / "replaced", "")
    finally:
        os.umask(before)
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "opened").stat().st_mode


def test_a_lock_holds_until_the_file_is_closed(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "lock"
    with path.open("w") as mine:
        assert locked(mine)
        with path.open() as other:
            assert not locked(other)
            # It waits, and `waiting` releases the first lock.
            assert locked(other, waiting=mine.close)


@pytest.mark.skipif(os.name != "posix", reason="no links")
def test_a_lock_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"), lock_file(tmp_path / "lock"):
        pass
    assert not (tmp_path / "victim").exists()


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


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), True),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), True),
        (RuntimeError("RESOURCE_EXHAUSTED: writing 3 chunks"), True),
        (RuntimeError("x"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_only_a_full_disk_is_called_full(error: Exception, full: bool) -> None:
    assert is_disk_full(error) == full
    outer = ValueError("cannot write")
    outer.__cause__ = error
    assert is_disk_full(outer) == full


def test_the_cache_is_in_no_folder_called_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for value, root in {
        "~/c": "/home/me/c",
        "/c": "/c",
        "": "/home/me/.cache",
        "relative": "/home/me/.cache",
        "gs://bucket": "/home/me/.cache",
    }.items():
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_dir("x") == Path(root) / "jaxcap" / "x"


def test_the_directory_of_a_zip_archive_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("large", bytes(5 << 20))
        for number in range(100):
            archive.writestr(f"{number:060000d}", b"")
    with path.open("rb") as file, pytest.raises(ValueError, match="header has 6,00"):
        open_zip(file)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("large", bytes(5 << 20))
    with path.open("rb") as file, open_zip(file) as archive:
        assert archive.read("large") == bytes(5 << 20)
