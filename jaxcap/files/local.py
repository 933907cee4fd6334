"""Regular files, atomic writes, locks, room on the disk and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

from rich.filesize import decimal

from jaxcap.messages.errors import InputError, did_you_mean

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def locked(
    file: int | IO[Any], waiting: Callable[[], None] | None = None, *, shared: bool = False
) -> bool:
    """Lock an open file against other processes, until it is closed or this process ends.

    Windows and some network file systems have no locks; there, this has no effect.

    Args:
      waiting: called before waiting for another process that holds the lock. None: do not wait.
      shared: let others hold the lock too, if theirs are shared.

    Returns:
      False if another process holds the lock and `waiting` is None.

    Raises:
      OSError: flock(2) failed for another reason than missing support.
    """
    try:
        import fcntl
    except ImportError:
        return True
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            return False
        waiting()
        fcntl.flock(file, kind)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def check_folder(file: Path, option: str = "") -> None:
    """Refuse a file to write, named with `option`, whose folder does not exist.

    Raises:
      InputError: the folder does not exist. It may be a typing error, so it is not created.
    """
    folder = file.parent
    if not folder.is_dir():
        raise InputError(
            f"{option} {file}: there is no folder {folder}; create it first."
            f"{did_you_mean(folder)}".lstrip()
        )


def check_target(file: Path, option: str = "", *, replace: bool = True) -> None:
    """Refuse a file to write, named with `option`, that is no regular file or has no folder.

    Replacing /dev/null would change the machine for every user.

    Args:
      replace: whether the file may exist.

    Raises:
      InputError: it is a folder, a pipe or a device, its folder does not exist, or the file exists
        and must not.
    """
    if file.exists() and not file.is_file():
        kind = "folder" if file.is_dir() else "pipe or a device"
        raise InputError(f"{option} {file}: this is a {kind}; give the name of a file.".lstrip())
    check_folder(file, option)
    if file.exists() and not replace:
        raise InputError(f"{option} {file}: the file exists; --force replaces it.".lstrip())


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to the same existing file."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them does not exist
        return False


@contextlib.contextmanager
def lock_file(
    path: Path, waiting: Callable[[], None] | None = None, *, shared: bool = False
) -> Iterator[bool]:
    """Hold a lock on a file that exists only for that; see `locked`. Its folder is created.

    A killed process releases its lock. The last holder removes the file. A link is not followed.

    Yields:
      False if another process holds the lock and `waiting` is None.

    Raises:
      OSError: the folder is not writable, or there is a link of that name.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = no_link(os.fspath(path), os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:  # the folder was removed in between
            continue
        try:
            if not locked(file, waiting, shared=shared):
                yield False
                return
            if _is_open_as(path, file):  # otherwise it was removed, and others lock a new file
                try:
                    yield True
                finally:
                    if not shared or locked(file):
                        path.unlink(missing_ok=True)
                return
        finally:
            os.close(file)


def _is_open_as(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def check_space(name: str | Path, folder: Path, needed: int, way_out: str) -> None:
    """Check that the disk of a folder has room.

    Args:
      name: what to write there, for the message.
      needed: bytes.
      way_out: an imperative sentence for the message.

    Raises:
      InputError: fewer bytes are free.
    """
    if (free := shutil.disk_usage(folder).free) < needed:
        raise InputError(
            f"{name}: needs about {decimal(needed)} in {folder}, but only {decimal(free)} are "
            f"free. {way_out}"
        )


def no_link(path: str, flags: int) -> int:
    """Open a file that is no link, without waiting for a pipe: an `opener` of the built-in `open`.

    For files of a fixed name that are changed in place. In a folder from a stranger, a link of that
    name could lead to any file.

    Raises:
      OSError: it is a link, or a pipe that nobody reads.
    """
    here = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags | here, 0o666)


_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that Git LFS has not downloaded."""


def open_file(path: Path, name: str | None = None) -> BufferedReader:
    """Open a regular file for reading; a pipe would block, and a device might never end.

    Args:
      name: the name of the file in the message; by default its path.

    Raises:
      InputError: it is not a regular file, or it is a pointer that Git LFS left in its place.
      OSError: it cannot be opened.
    """
    # A pipe that nobody writes to would block `open` itself.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    problem = ""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        problem = "not a regular file, but a folder, a pipe or a device"
    elif os.read(descriptor, len(_LFS_POINTER)) == _LFS_POINTER:
        problem = "a Git LFS pointer, not the file itself; run `git lfs pull`"
    if problem:
        os.close(descriptor)
        raise InputError(f"{name or path}: {problem}")
    os.lseek(descriptor, 0, os.SEEK_SET)
    return open(descriptor, "rb")


def read_bytes(path: Path, *, at_most: int, name: str | None = None) -> bytes:
    """Read a regular file of at most `at_most` bytes.

    Args:
      name: the name of the file in error messages; by default its path.

    Raises:
      InputError: it cannot be read, is not a regular file, or is too large.
    """
    name = name or str(path)
    try:
        with open_file(path, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > at_most:
                raise InputError(
                    f"{name}: the file has {size:,} bytes; expected at most {at_most:,}"
                )
            return file.read(at_most)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: the path holds a NUL or a lone surrogate
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name}: cannot read the file: {reason}") from error


_MAX_READ = 1 << 22


class SmallReads:
    """An archive whose headers or directory are small; the libraries read these as a whole.

    Each entry of a zip archive takes ten times the memory that it takes in the directory.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_READ:
            raise ValueError(f"a header has {size:,} bytes; expected at most {_MAX_READ:,}")
        return self._file.read(size)


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """Open a zip archive whose directory is small, for `zipfile` reads it as a whole.

    Raises:
      ValueError: the directory is too large.
      zipfile.BadZipFile: this is not a zip archive. Damaged bytes cause other exceptions too.
    """
    archive = zipfile.ZipFile(cast("IO[bytes]", SmallReads(file)))
    archive.fp = file
    return archive


_NAME_BYTES = 100
"""How much of a file's name its temporary file repeats; file systems allow 143 to 255 bytes."""


_unfinished: set[Path] = set()
"""The temporary files of `replacing`."""


def remove_unfinished() -> None:
    """Delete the temporary files of `replacing`, before a signal ends the process."""
    for path in list(_unfinished):
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def replacing(path: Path, *, folder: Path | None = None) -> Iterator[Path]:
    """Yield a new, empty file to write, which replaces `path` if the `with` block succeeds.

    Readers of `path` find the old file or the new one, never a part. After an error `path` is
    unchanged, and the temporary file is deleted. Its name is random and it is created exclusively:
    other processes and containers never share it, and no link is followed.

    Args:
      folder: where to create the temporary file, on the same file system as `path`; by default the
        folder of `path`.

    Raises:
      OSError: the disk is full, or permission is missing. Its message names `path`.
    """
    name = os.fsencode(path.name)[:_NAME_BYTES].decode(errors="ignore")
    beside = (folder or path.parent) / f".{name}.{secrets.token_hex(8)}.part"
    with naming(path, beside):
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        _unfinished.add(beside)
        try:
            yield beside
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
            _unfinished.discard(beside)


@contextlib.contextmanager
def naming(path: Path, beside: Path | None = None) -> Iterator[None]:
    """Name a file in the errors of the `with` block that name none, such as that of a full disk.

    Args:
      beside: another name to replace.
    """
    try:
        yield
    except OSError as error:
        if error.filename in (None, beside and os.fspath(beside)):
            error.filename = os.fspath(path)
            del error.filename2  # None would be shown as "-> None"
        raise


def write_text(path: Path, text: str, *, ready: Callable[[], object] | None = None) -> None:
    """Write a text file atomically, see `replacing`.

    Args:
      ready: called once the disk has room for the text, before it replaces the file.

    Raises:
      OSError: the disk is full, or permission is missing.
    """
    with replacing(path) as beside:
        # File names may contain bytes that are not valid text; JSON would write \\udcff, too.
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
        if ready is not None:
            ready()


_FULL = (
    *(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
    "RESOURCE_EXHAUSTED",
)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that a disk or a quota is full.

    Libraries report that in their own errors, so the text decides.
    """
    chain: BaseException | None = error
    while chain is not None:
        if any(text in str(chain) for text in _FULL):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def cache_dir(name: str) -> Path | None:
    """Return `$XDG_CACHE_HOME/jaxcap/NAME`, by default `~/.cache/jaxcap/NAME`.

    None if there is neither the variable nor a home directory. As the XDG Base Directory
    Specification demands, a relative path in the variable is ignored.
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME", "")).expanduser()
        root = root if root.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return root / "jaxcap" / name


def is_private(path: Path) -> bool:
    """Return whether a file or folder belongs to this user and is not world-writable.

    True where files have no owners (Windows).

    Raises:
      OSError: `path` does not exist or cannot be examined.
    """
    if not hasattr(os, "getuid"):
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & stat.S_IWOTH
