"""Parse JSON, JSON lines and tables into records, and report all problems of a file at once."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import os
import re
import shlex
import stat
import tokenize
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from jaxcap.caption_files.encodings import guess, utf16
from jaxcap.data.image_names import IMAGE_SUFFIXES
from jaxcap.files import open_file
from jaxcap.files.json_data import parse_json
from jaxcap.messages.errors import InputError, counted, did_you_mean

SHOWN = 10
"""The number of problems to list; the rest is counted."""
MAX_PROBLEMS = 1_000_000


@dataclass
class Problems:
    """The problems of one file, collected so that the user can correct them all at once.

    Attributes:
      path: the file.
      found: the problems.
      gaps: entries without a caption, which a caller may leave out.
    """

    path: Path
    found: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def add(self, place: str, text: str) -> None:
        """Add a problem at `place`, such as "line 3"; `text` says what was found and expected.

        Raises:
          InputError: there are a million problems; more would fill the memory.
        """
        self.found.append(f"{place}: {text}" if place else text)
        if len(self.found) == MAX_PROBLEMS:
            self.raise_if_any()

    def add_gap(self, place: str, text: str) -> None:
        """Add an entry without a caption."""
        self.gaps.append(f"{place}: {text}")

    def raise_if_any(self) -> None:
        """Raise `InputError` if there are problems, with the first ten and their total number."""
        found = self.found + self.gaps
        if not found:
            return
        if len(found) == 1:
            raise InputError(f"{self.path}, {found[0]}")
        lines = [f"{self.path}: {len(found)} problems:"]
        lines += [f"  {each}" for each in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"  … and {len(found) - SHOWN} more")
        raise InputError(*lines)


def shown(value: object, width: int = 60) -> str:
    """Return a value as written in a file, shortened to about `width` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = repr(text) if isinstance(value, str) else text
    return text if len(text) <= width else text[: width - 1] + "…"


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 or UTF-16 file, with or without a byte order mark, perhaps .gz.

    Pipes are read only if a shell made them, as in `jaxcap score <(zcat captions.gz) …`: one in a
    folder would block forever.

    Raises:
      InputError: the file does not exist, is empty, or is not text. Names the line.
    """
    try:
        with path.open("rb") if path.parts[:2] == ("/", "dev") else open_file(path) as file:
            status = os.fstat(file.fileno())
            if stat.S_ISCHR(status.st_mode) and not file.isatty():
                raise InputError(f"{path}: a device, not a file")
            if status.st_size > _MAX_TEXT:
                raise InputError(
                    f"{path}: the file has {status.st_size:,} bytes; expected at most "
                    f"{_MAX_TEXT:,}. Split it."
                )
            data = file.read()
        if path.suffix.lower() == ".gz":
            at_most = MAX_BYTES + _MAX_RATIO * len(data)
            with gzip.open(io.BytesIO(data)) as compressed:
                data = compressed.read(at_most + 1)
            if len(data) > at_most:
                raise InputError(
                    f"{path}: unpacks to more than {_MAX_RATIO} times its size, which text never "
                    "does. If you trust it, unpack it first."
                )
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot read it: {reason}.{did_you_mean(path)}") from None
    text = decode_text(data, path)
    if not text.strip():
        raise InputError(f"{path}: the file is empty.")
    return text


_MAX_TEXT = 1 << 32

MAX_BYTES, _MAX_RATIO = 1 << 26, 100
"""Bounds of what a compressed file may unpack to. Captions are compressed 3 to 10 times."""


_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
"""How .xlsx and .ods files begin, and .xls files."""


def decode_text(data: bytes, path: Path) -> str:
    """Decode the content of a text file, as `read_text` does.

    Args:
      data: the content.
      path: the file, for error messages.

    Returns:
      The text. If its lines end with CR alone, as Excel's "CSV (Macintosh)" has them, with LF.

    Raises:
      InputError: the content is not text. Names the line.
    """
    text = _decoded(data, path)
    return text if "\n" in text else text.replace("\r", "\n")


def _decoded(data: bytes, path: Path) -> str:
    if data.startswith(_WORKBOOKS):
        raise InputError(f"{path}: a workbook, or a ZIP archive; save it as CSV in UTF-8.")
    if name := utf16(data):
        try:
            return data.decode(name).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: damaged {name} text: {error.reason}.") from None
    if b"\0" in data[:65536]:
        raise InputError(
            f"{path}: this is not a text file; expected JSON, JSON lines, CSV, TSV or a Flickr "
            "token file. Decompress compressed files first."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        looks = guess(data)
        name = shlex.quote(path.name)
        raise InputError(
            f"{path}, line {line}: the byte 0x{data[error.start]:02X} is not UTF-8; the file looks "
            f"like {looks.title}. If so, convert it: iconv -f {looks.iconv} -t UTF-8 {name}"
        ) from None


def read_json(path: Path, text: str) -> Any:
    """Parse JSON; an object with repeated names is returned as `Repeated`.

    Raises:
      InputError: the JSON is malformed. Names line and column, and shows the line.
    """
    try:
        return parse_json(text, keep_repeated=True)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        around = line[max(0, error.colno - 31) : error.colno + 29].strip()
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}; "
            f"found {shown(around) if text[error.pos :].strip() else 'the end of the file'}."
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: malformed JSON: {error}.") from None


def is_json_lines(text: str) -> bool:
    """Return whether there are several lines and most of them look like JSON objects."""
    lines = [line.strip() for line in _lines(text) if line.strip()]
    whole = sum(line.startswith("{") and line.endswith("}") for line in lines[:1000])
    return len(lines) > 1 and whole > min(len(lines), 1000) / 2


def read_json_lines(text: str, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("line 3", object); add lines that are not objects to `problems`."""
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else error
            problems.add(f"line {number}", f"malformed JSON: {why}; found {shown(line)}")
            continue
        if isinstance(value, dict):
            yield f"line {number}", value
        else:
            problems.add(f"line {number}", f"expected an object {{…}}, found {shown(value)}")


@dataclass(frozen=True)
class Table:
    """A table before its rows are parsed.

    Attributes:
      text: the lines, with an empty one in place of Excel's `sep=;`.
      delimiter: the character between cells.
      columns: the names of the columns, normalised by `column_name`.
      first: the first line.
      has_header: whether the first line names the columns.
    """

    text: str
    delimiter: str
    columns: list[str]
    first: str
    has_header: bool


_SEP = re.compile(r'\s*"?sep=([^\r\n])"?[ \t,;|]*\r?$', re.MULTILINE | re.IGNORECASE)
"""Excel's own first line, which names the delimiter."""


def find_table(text: str) -> Table:
    """Find the delimiter and the columns of a table.

    A table of image names and captions needs no header: `a.jpg<TAB>A dog.` has the columns image
    and caption, and `jaxcap caption` writes it.
    """
    given = _SEP.match(text)
    text = text[given.end() :] if given else text
    first = next((line.rstrip("\r") for line in _lines(text) if line.strip()), "")
    delimiter = given[1] if given else max("\t,;|", key=first.count)  # the first of equals
    if _is_image(first.partition("\t")[0]):
        delimiter = "\t"
    try:
        cells = next(csv.reader([first], delimiter=delimiter), [])
    except csv.Error:  # not a header
        cells = [first]
    if len(cells) == 2 and _is_image(cells[0]):
        return Table(text, delimiter, ["image", "caption"], first, has_header=False)
    columns = [column_name(cell) for cell in cells]
    return Table(text, delimiter, columns, first, has_header=True)


def _is_image(name: str) -> bool:
    return name.partition("?")[0].strip().lower().endswith(IMAGE_SUFFIXES)


def column_name(cell: str) -> str:
    """Normalise the name of a column: "Image Name" and "image-name" become image_name."""
    return re.sub(r"[\s-]+", "_", cell.strip().lower())


def read_table(table: Table, problems: Problems) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ("line 3", column to cell) for each line after the header, if there is one.

    Lines with a wrong number of cells or malformed quotes are added to `problems`.
    """
    text, delimiter, columns = table.text, table.delimiter, table.columns
    # Most writers of TSV do not quote: a quotation mark is part of the text.
    literal = delimiter in "\t|" and not _quoted(text)
    rows = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL,
        strict=True,
    )
    header, begin = table.has_header, 1
    try:
        for cells in rows:
            place, begin = f"line {begin}", rows.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header:
                header = False
            elif len(cells) == len(columns):
                yield place, dict(zip(columns, map(_cell_text, cells), strict=True))
            else:
                hint = ' (a caption with a comma needs quotes: "…")' if delimiter == "," else ""
                problems.add(
                    place,
                    f"found {counted(len(cells), 'cell')} where the first line has "
                    f"{len(columns)}{hint}: {shown(delimiter.join(cells))}",
                )
    except csv.Error as error:
        problems.add(f"line {begin}", f"malformed CSV: {error}")


def harmless(text: str) -> str:
    """Put `'` before a cell that a spreadsheet would take for a formula.

    See "CSV Injection", https://owasp.org/www-community/attacks/CSV_Injection. `read_table` removes
    the mark.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _cell_text(cell: str) -> str:
    return re.sub(r"^'(?=[=+\-@])", "", cell.strip())


def list_in_cell(cell: str) -> str | list[str]:
    """Return the texts of a list that JSON, pandas or NumPy wrote into a cell; else the cell."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return cell
    try:
        texts = parse_json(cell)
    except ValueError:
        texts = _python_list(cell)
    is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    return texts if is_list else cell


def _python_list(cell: str) -> list[Any] | None:
    """Parse `['a', 'b']`, also without the comma, as NumPy prints arrays; None if it is neither."""
    texts, others = [], ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(cell).readline):
            if token.type == tokenize.STRING:
                texts.append(ast.literal_eval(token.string))
            elif (others := others + token.string.strip().replace(",", "")) not in ("", "[", "[]"):
                return None  # at once: after each open quote, the rest is scanned again
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    return texts if others == "[]" else None


def _quoted(text: str) -> bool:
    """Return whether any cell of a table with tabs or bars is enclosed in quotes."""
    return re.search(r'(?:^|[\t|])"(?:[^"\n]|"")*"(?:[\t|]|\r?$)', text, re.MULTILINE) is not None


def _lines(text: str) -> list[str]:
    # Not splitlines(), which also splits at characters that captions may contain.
    return text.split("\n")


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    for number, line in enumerate(_lines(text), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def fail(path: Path, found: str, expected: str) -> NoReturn:
    """Raise an `InputError` that says what was found and what was expected."""
    raise InputError(f"{path}: found {found}; expected {expected}.")
