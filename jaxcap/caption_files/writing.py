"""Files of captions that are valid whatever happens, and that another run goes on with.

A file holds an entry for each image. Entries are appended, each by one write, and an entry that
was cut off (a kill, a full disk) is taken away by whoever opens the file next. A JSON array is
appended to as well: its closing bracket is overwritten by the next entry and a bracket after it.
So the file never has to be written anew, however long it is.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxcap.caption_files.formats import Format, JsonLines, Key, encoded
from jaxcap.captioning.stream import Captioned
from jaxcap.errors import InputError
from jaxcap.files import locked


@dataclass(frozen=True)
class _Entry:
    key: Key
    text: bytes
    end: int


def _entries(path: Path, file: io.BufferedReader, format: Format) -> Iterator[_Entry]:
    """The whole entries of a file, up to one that was cut off.

    Raises:
      InputError: this is no file of captions in this format; it was not changed.
    """
    head = format.head.encode()
    begin = file.read(len(head))
    if begin != head:
        if not head.startswith(begin):
            raise _foreign(path, 1, format, f"the file does not begin with {format.head.strip()!r}")
        return
    lines, number, offset = b"", format.head.count("\n"), len(head)
    end_seen, first = False, True
    for line in file:
        number += 1
        lines += line
        if format.tail and lines.strip() in (b"", b"]"):
            end_seen = end_seen or lines.strip() == b"]"
            offset, lines = offset + len(lines), b""
            continue
        if end_seen:
            raise _foreign(path, number, format, "something follows the end of the list")
        if not format.is_whole(lines) and line.endswith(b"\n"):
            continue
        try:
            key, length = format.read(lines)
        except (ValueError, TypeError) as error:
            if line.endswith(b"\n") or not format.may_begin(lines, first=first):
                raise _foreign(path, number, format, str(error)) from None
            return
        yield _Entry(key, lines[:length], offset + length)
        first = False
        offset, lines = offset + len(lines), b""


def _foreign(path: Path, line: int, format: Format, problem: str) -> InputError:
    return InputError(
        f"{path}, line {line}: this is no {format.name} file of captions that could be gone on "
        f"with ({problem}); it was left as it is. Give another --output, or the --format it has."
    )


def read_entries(path: Path, format: Format) -> Iterator[tuple[Key, bytes]]:
    """`(key, entry)` of a file that `CaptionWriter` wrote, without one that was cut off.

    Raises:
      InputError: the file cannot be read, or is none of this format.
    """
    try:
        with path.open("rb") as file:
            for entry in _entries(path, file, format):
                yield entry.key, entry.text
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}.") from error


class CaptionWriter:
    """A file of captions, open to append to; for use in a `with` statement.

    Attributes:
      path: the file.
      keys: what the images that have an entry are called in it, see `Format.key`.
    """

    def __init__(self, path: Path, format: Format):
        """Opens the file or makes it; what was cut off at its end is taken away.

        Raises:
          InputError: the file cannot be written, holds something else, or another process is
            writing it.
        """
        self.path, self.format = path, format
        self.keys: set[Key] = set()
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: this is no regular file; captions cannot be appended to it.")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise InputError(f"{path}: cannot write there: {error.strerror}.") from error
        try:
            self._lock()
            self._end = len(format.head.encode())
            with open(self._file, "rb", closefd=False) as file:
                for entry in _entries(path, file, format):
                    self.keys.add(entry.key)
                    self._end = entry.end
            self._mend()
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        try:
            alone = locked(self._file)
        except OSError as error:
            raise self._failed(error) from error
        if not alone:
            raise InputError(
                f"{self.path}: another process is writing this file. Give each its --part and an "
                "--output of its own."
            )

    def __enter__(self) -> CaptionWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(self._file)

    def add(self, result: Captioned) -> None:
        """Appends the captions of an image; an image without one has no entry.

        Raises:
          InputError: they cannot be written; the file holds what it held before.
        """
        if result.captions:
            self.add_entry(self.format.key(result.name), encoded(self.format.entry(result)))

    def add_entry(self, key: Key, entry: bytes) -> None:
        """Appends an entry that is written out already."""
        between = self.format.between.encode() if self.keys else b""
        self._write(between + entry + self.format.tail.encode())
        self._end += len(between) + len(entry)
        self.keys.add(key)

    def _write(self, data: bytes) -> None:
        try:
            _write_all(self._file, data, self._end)
        except OSError as error:
            self._mend()
            raise self._failed(error) from error

    def _mend(self) -> None:
        """Ends the file after its last whole entry: this takes no more room than it has."""
        head, tail = self.format.head.encode(), self.format.tail.encode()
        try:
            if not self.keys:
                _write_all(self._file, head, 0)
            _write_all(self._file, tail, self._end)
            os.ftruncate(self._file, self._end + len(tail))
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path}: cannot write: {error.strerror}. The captions of {len(self.keys)} images "
            "are in it; mend that, give the same command again, and it goes on from there."
        )


def _write_all(file: int, data: bytes, offset: int) -> None:
    os.lseek(file, offset, os.SEEK_SET)
    while data:
        data = data[os.write(file, data) :]


class CaptionStream:
    """Captions printed as they come, for use in a `with` statement; nothing can be gone on with."""

    def __init__(self, write: Callable[[str], object], format: Format):
        """Args: write is called with the text of each entry."""
        self.format = format
        self.keys: frozenset[Key] = frozenset()
        self._write, self._before = write, format.head

    def __enter__(self) -> CaptionStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            head = self._before if self._before == self.format.head else ""
            self._write(head + self.format.tail)

    def add(self, result: Captioned) -> None:
        """Prints the captions of an image; for one without, the error, in JSON lines."""
        if result.captions or isinstance(self.format, JsonLines):
            # What no encoding of the output can say is written as it is in files.
            self._write(self._before + encoded(self.format.entry(result)).decode())
            self._before = self.format.between
