"""Write caption files that stay valid through interruptions, and continue them later.

A file holds one entry per image. Each entry is appended by a single write. A killed process or a
full disk may leave an unfinished entry at the end, which the next `CaptionWriter` removes. JSON
arrays are appended to as well: the next entry overwrites the closing bracket and writes a new one.
So a file is never rewritten, however long it is.

A file is continued only if everything else in it is whole. Otherwise it may have been edited, and
it is refused unchanged.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from jaxcap.caption_files.made_with import Record, check_record, record_of, write_record
from jaxcap.caption_files.output_formats import JSON_SPACE, Format, JsonLines, Key, encoded
from jaxcap.caption_files.text_files import shown
from jaxcap.captioning.results import Captioned
from jaxcap.files import locked, open_file
from jaxcap.messages.errors import InputError, counted, ignore

_MAX_LINE = 1 << 26


@dataclass(frozen=True)
class _Entry:
    key: Key
    text: bytes
    end: int
    """Its offset in the file once `missing` is written."""
    missing: bytes = b""
    """The line end that the file lacks after its last entry."""


def _entries(path: Path, file: io.BufferedReader, format: Format) -> Iterator[_Entry]:
    """Yield the whole entries of a file; an unfinished one may follow the last.

    Raises:
      InputError: something else is in the file.
    """
    size, head = os.fstat(file.fileno()).st_size, format.head.encode()
    begin = file.read(len(head))
    if begin != head:
        if not head.startswith(begin):
            raise _refused(path, 1, begin, f"a file that begins with {format.head.strip()!r}")
        return
    number, offset = 1 + format.head.count("\n"), len(head)
    first = separated = True
    ended, space = False, JSON_SPACE.encode()
    for row in format.rows(_lines(path, file)):
        line, begin_of_row = number, offset
        number, offset = number + row.count(b"\n"), offset + len(row)
        if format.tail and row.strip(space) in (b"", b"]"):
            ended = ended or b"]" in row
            continue
        if ended:
            raise _refused(path, line, row, "nothing after the end of the list")
        if not separated:
            raise _refused(path, line, row, "a comma at the end of the line before it")
        try:
            key, length = format.read(row)
        except ValueError:
            if offset < size or not format.is_unfinished(row, first=first):
                raise _refused(path, line, row, format.expected) from None
            return
        missing = b"" if format.tail or row.endswith(b"\n") else b"\n"
        text = row[:length] + missing
        yield _Entry(key, text, begin_of_row + len(text), missing)
        rest = row[length:].strip(space)
        separated, ended = not format.between or rest.startswith(b","), b"]" in rest
        first = False


def _lines(path: Path, file: io.BufferedReader) -> Iterator[bytes]:
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise InputError(
                f"{path}: a line of more than {_MAX_LINE:,} bytes, which no entry has; the file "
                "was not changed. Give another --output."
            )
        yield line


def _refused(path: Path, line: int, found: bytes, expected: str) -> InputError:
    text = shown(found.decode(errors="replace").rstrip("\r\n"))
    return InputError(
        f"{path}, line {line}: found {text}; expected {expected}. The captions cannot be appended "
        "to this file, and it was not changed. Correct the line, or give another --output or "
        "--format."
    )


def _unfinished(file: io.BufferedReader, end: int, format: Format) -> str:
    """Return the unfinished entry after the last whole one, which ends at `end`, or ""."""
    file.seek(end)
    rest = file.read().strip(b" \t\r\n,]") if format.tail else file.read()
    return rest.decode(errors="replace")


def read_entries(
    path: Path, format: Format, left_out: Callable[[str], object] = ignore
) -> Iterator[tuple[Key, bytes]]:
    """Yield `(key, entry)` for each whole entry of a file that `CaptionWriter` wrote.

    Args:
      left_out: called with the unfinished entry at the end, if there is one.

    Raises:
      InputError: the file cannot be read, or holds anything but entries of this format.
    """
    try:
        with open_file(path) as file:
            end = len(format.head.encode())
            for entry in _entries(path, file, format):
                end = entry.end
                yield entry.key, entry.text
            if rest := _unfinished(file, end, format):
                left_out(rest)
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}.") from error


class _Keyed:
    """Tells which images have captions already."""

    format: Format
    keys: Set[Key]

    clash = "it has the name {key} in the file of captions, and so has {other}"
    """Why another image of the same key is left out."""

    def key(self, name: str) -> Key:
        """Return the key of an image, see `Format.key`."""
        return self.format.key(name)

    def has(self, key: Key) -> bool:
        """Return whether the image of this key has captions."""
        return key in self.keys


class CaptionWriter(_Keyed):
    """A caption file, open for appending. Use it in a `with` statement.

    Attributes:
      path: the file.
      keys: the keys of the images that have an entry, see `Format.key`.
      removed: the unfinished entry that was removed from the end of the file, or "".
    """

    def __init__(
        self,
        path: Path,
        format: Format,
        *,
        made_with: Record | None = None,
        restart: bool = False,
    ):
        """Open or create the file, and remove an unfinished entry from its end.

        Args:
          made_with: the settings that determine the captions, to be recorded beside the file; see
            `made_with`.
          restart: discard the entries that the file holds.

        Raises:
          InputError: the file cannot be written, another process is writing it, or it holds
            anything but complete entries of this format, or was made with other settings. The
            file is then unchanged.
        """
        self.path, self.format = path, format
        self.keys: set[Key] = set()
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file, so captions cannot be appended to it.")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise InputError(
                f"{path}: cannot write there: {error.strerror}. Give another --output."
            ) from error
        try:
            self._lock()
            self._end = len(format.head.encode())
            with open(self._file, "rb", closefd=False) as file:
                missing = b""
                for entry in _entries(path, file, format):
                    self.keys.add(entry.key)
                    self._end, missing = entry.end, entry.missing
                self.removed = _unfinished(file, self._end, format)
            if restart:
                self.keys, self.removed = set(), ""
                self._end, missing = len(format.head.encode()), b""
            try:
                if made_with is not None:
                    self._record(made_with)
                self._mend(missing)
            except InputError:
                # Rather no file than one without its head.
                if os.fstat(self._file).st_size <= len(format.head.encode()):
                    for written in (path, record_of(path)):
                        with contextlib.suppress(OSError):
                            written.unlink()
                raise
        except BaseException:
            os.close(self._file)
            raise

    def _record(self, made_with: Record) -> None:
        if self.keys:
            check_record(self.path, made_with)
            return
        try:
            write_record(self.path, made_with, emptied=self._file)
        except OSError as error:
            raise self._failed(error) from error

    def _lock(self) -> None:
        try:
            alone = locked(self._file)
        except OSError as error:
            raise self._failed(error) from error
        if not alone:
            raise in_use(self.path)

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
        """Append the captions of an image; do nothing for an image without one.

        Raises:
          InputError: the entry cannot be written. The file then holds all earlier entries.
        """
        if result.captions:
            self.add_entry(self.format.key(result.name), encoded(self.format.entry(result)))

    def add_entry(self, key: Key, entry: bytes) -> None:
        """Append an entry that `read_entries` returned."""
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

    def _mend(self, missing: bytes = b"") -> None:
        """End the file after its last whole entry.

        A full disk has room for this: the file does not grow, but for a missing line end.
        """
        head, tail = self.format.head.encode(), self.format.tail.encode()
        try:
            if not self.keys:
                _write_all(self._file, head, 0)
            _write_all(self._file, missing + tail, self._end - len(missing))
            os.ftruncate(self._file, self._end + len(tail))
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> InputError:
        images = counted(len(self.keys), "image")
        held = f"The file holds the captions of {images}. " if self.keys else ""
        return InputError(
            f"{self.path}: cannot write: {error.strerror}. {held}Once the cause is removed, the "
            "same command continues."
        )


def in_use(path: Path) -> InputError:
    """Return the error for a file of captions that another process has locked."""
    return InputError(
        f"{path}: another process is writing this file. Give each process its own --part and its "
        "own --output."
    )


def _write_all(file: int, data: bytes, offset: int) -> None:
    os.lseek(file, offset, os.SEEK_SET)
    while data:
        data = data[os.write(file, data) :]


class CaptionStream(_Keyed):
    """Captions printed one by one, with the interface of `CaptionWriter`."""

    def __init__(self, write: Callable[[str], object], format: Format):
        """Initialise with `write`, which is called with the text of each entry."""
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
        """Print the captions of an image; JSON lines also print the error of one without."""
        if result.captions or isinstance(self.format, JsonLines):
            # Names that are not valid text are escaped as in files.
            self._write(self._before + encoded(self.format.entry(result)).decode())
            self._before = self.format.between
