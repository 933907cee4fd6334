"""Text files to records: what the file is, is told from its content, and all that is wrong with
it is said at once."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from jaxcap.caption_files.encodings import guess, utf16
from jaxcap.errors import InputError

SHOWN = 10
"""Problems listed before the rest is only counted."""


@dataclass
class Problems:
    """What is wrong with one file, collected so that it can be mended in one go."""

    path: Path
    found: list[str] = field(default_factory=list)

    def add(self, place: str, text: str) -> None:
        """Args: place is where in the file ("line 3"), text what was found and expected there."""
        self.found.append(f"{place}: {text}" if place else text)

    def raise_if_any(self) -> None:
        """Raises `InputError` with the first ten problems and their number, if there are any."""
        if not self.found:
            return
        if len(self.found) == 1:
            raise InputError(f"{self.path}, {self.found[0]}")
        lines = [f"{self.path}: {len(self.found)} problems:"]
        lines += [f"  {each}" for each in self.found[:SHOWN]]
        if len(self.found) > SHOWN:
            lines.append(f"  … and {len(self.found) - SHOWN} more")
        raise InputError("\n".join(lines))


def shown(value: object, width: int = 60) -> str:
    """A value as it stands in a file, shortened to about `width` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = repr(text) if isinstance(value, str) else text
    return text if len(text) <= width else text[: width - 1] + "…"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
      InputError: there is no such file, it is empty, or not UTF-8 text; says on which line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror or error}") from None
    if name := utf16(data):
        raise InputError(
            f"{path}: this is UTF-16 text; expected UTF-8. Convert it: "
            f"iconv -f {name} -t UTF-8 {path.name}"
        )
    if b"\0" in data[:65536]:
        raise InputError(
            f"{path}: this is no text file; expected JSON, JSON lines, CSV, TSV or a Flickr token "
            "file (unpacked, if it was compressed)."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        looks = guess(data)
        raise InputError(
            f"{path}, line {line}: the byte 0x{data[error.start]:02X} is not UTF-8; the file looks "
            f"like {looks.title}. If so, convert it: iconv -f {looks.iconv} -t UTF-8 {path.name}"
        ) from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty.")
    return text


class Repeated(dict[str, Any]):
    """A JSON object in which names occur more than once; the last value of each is kept."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.pairs = pairs


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def read_json(path: Path, text: str) -> Any:
    """Parses JSON; an object with repeated names comes back as `Repeated`.

    Raises:
      InputError: names line and column, and shows the line.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        around = line[max(0, error.colno - 31) : error.colno + 29].strip()
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}; "
            f"found {shown(around) if text[error.pos :].strip() else 'the end of the file'}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: malformed JSON: {_why(error)}.") from None


def _why(error: ValueError | RecursionError) -> str:
    """In words that stand after "malformed JSON: "."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "a number has too many digits"


def is_json_lines(text: str) -> bool:
    """Whether the lines are objects of their own: more than one, and most begin and end as one."""
    lines = [line.strip() for line in _lines(text) if line.strip()]
    whole = sum(line.startswith("{") and line.endswith("}") for line in lines[:1000])
    return len(lines) > 1 and whole > min(len(lines), 1000) / 2


def read_json_lines(text: str, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("line 3", object); lines that are no object go to `problems`."""
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add(f"line {number}", f"malformed JSON: {_why(error)}; found {shown(line)}")
            continue
        if isinstance(value, dict):
            yield f"line {number}", value
        else:
            problems.add(f"line {number}", f"expected an object {{…}}, found {shown(value)}")


def table_columns(text: str) -> tuple[str, list[str]]:
    """The delimiter of a table and the names in its first line, in lower case."""
    first = next(line for line in _lines(text) if line.strip())
    best = max("\t,;|", key=first.count)  # the first of equals
    try:
        cells = next(csv.reader([first.rstrip("\r")], delimiter=best))
    except csv.Error:  # no names of columns, at any rate
        cells = [first]
    return best, [column_name(cell) for cell in cells]


def column_name(cell: str) -> str:
    """A column's name as people vary it: "Image Name" and "image-name" are image_name."""
    return re.sub(r"[\s-]+", "_", cell.strip().lower())


def read_table(text: str, problems: Problems) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields ("line 3", column to cell) for the lines after the first, which names the columns.

    Lines with another number of cells and broken quotes go to `problems`.
    """
    delimiter, columns = table_columns(text)
    # Quotes are quotes in CSV; in TSV most writers mean them as they stand.
    literal = delimiter in "\t|" and not _quoted(text)
    rows = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL,
        strict=True,
    )
    header, begin = True, 1
    try:
        for cells in rows:
            place, begin = f"line {begin}", rows.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header:
                header = False
            elif len(cells) == len(columns):
                yield place, dict(zip(columns, (cell.strip() for cell in cells), strict=True))
            else:
                hint = ' (a caption with a comma needs quotes: "…")' if delimiter == "," else ""
                problems.add(
                    place,
                    f"found {len(cells)} cells where the first line has {len(columns)}{hint}: "
                    f"{shown(delimiter.join(cells))}",
                )
    except csv.Error as error:
        problems.add(f"line {begin}", f"malformed CSV: {error}")


def _quoted(text: str) -> bool:
    """Whether a table of tabs or bars quotes its cells: it then has quotes at both ends of one."""
    return re.search(r'(?:^|[\t|])"(?:[^"\n]|"")*"(?:[\t|]|\r?$)', text, re.MULTILINE) is not None


def _lines(text: str) -> list[str]:
    # Not splitlines(), which also breaks at characters that may stand within a caption.
    return text.split("\n")


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    for number, line in enumerate(_lines(text), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def fail(path: Path, found: str, expected: str) -> NoReturn:
    """Raises an `InputError` of the usual form."""
    raise InputError(f"{path}: found {found}; expected {expected}.")
