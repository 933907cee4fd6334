"""The formats in which captions are written: text, JSON lines, CSV and COCO results.

A file consists of a head, the entries of the images with a separator between them, and a tail.
`caption_files.writing` appends to such a file; each format also reads its own entries back.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcap.caption_files.text_files import harmless
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.files.json_data import parse_json
from jaxcap.messages.errors import one_line

Key = str | int
"""The name or number of an image in a file."""


@dataclass(frozen=True)
class Format:
    """A format for captions: `text`, `jsonl`, `csv` or `coco`.

    Attributes:
      words: also write the probability and the attention of each word, if the format has a place
        for them.
    """

    words: bool = False

    name = ""
    head = ""
    between = ""
    tail = ""
    expected = ""
    """An entry, as error messages show it."""

    def key(self, name: str) -> Key:
        """Return the key that the file uses for an image of this name."""
        return name

    def entry(self, result: Captioned) -> str:
        """Return the entry of an image, with its line end if each entry has one."""
        raise NotImplementedError

    def rows(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Group the lines of a file into entries; by default each line is one."""
        return iter(lines)

    def read(self, row: bytes) -> tuple[Key, int]:
        """Return the key of the entry in `row`, and the number of bytes that the entry has.

        Raises:
          ValueError: `row` does not hold exactly one whole entry.
        """
        raise NotImplementedError

    def is_unfinished(self, row: bytes, *, first: bool) -> bool:
        """Return whether `row`, the end of a file, is the beginning of an entry of this format.

        An interrupted write leaves such a beginning, and only that may be discarded. Anything else
        is somebody's data.

        Args:
          first: `row` would be the first entry of the file.
        """
        raise NotImplementedError


_LINE = re.compile(r"(?!\ufeff)([^\x00-\x1f\x7f]+)\t[^\x00-\x1f\x7f]*\r?\n")
_UNFINISHED_LINE = re.compile(r"(?!\t)[^\x00-\x1f\x7f]*(?:\t[^\x00-\x1f\x7f]*)?")


class Text(Format):
    """One line per image, `NAME<TAB>CAPTION`."""

    name = "text"
    expected = "NAME<TAB>CAPTION"

    def key(self, name: str) -> Key:
        return encoded(one_line(name)).decode()

    def entry(self, result: Captioned) -> str:
        return f"{one_line(result.name)}\t{one_line(result.captions[0].text)}\n"

    def read(self, row: bytes) -> tuple[Key, int]:
        match = _LINE.fullmatch(row.decode())
        if match is None:
            raise ValueError("not a name, a tab and a caption")
        return match[1], len(row)

    def is_unfinished(self, row: bytes, *, first: bool) -> bool:
        # The first line of a file could be the first line of anything.
        return not first and _UNFINISHED_LINE.fullmatch(_cut_text(row)) is not None


class JsonLines(Format):
    """One line per image, `{"image": …, "captions": [{"caption": …, "log_prob": …}, …]}`."""

    name = "jsonl"
    expected = '{"image": …, "captions": [{"caption": …, "log_prob": …}, …]}'

    def entry(self, result: Captioned) -> str:
        values: dict[str, Any] = {
            "image": result.name,
            "captions": [self._caption(caption) for caption in result.captions],
        }
        if result.familiarity is not None:
            values["familiarity"] = round(result.familiarity, 4)
        if result.unsaid:
            values["unsaid"] = list(result.unsaid)
        if self.words and result.recognised:
            values["recognised"] = {word: round(p, 4) for word, p in result.recognised.items()}
        if result.error is not None:
            values["error"] = result.error
        return json.dumps(values, ensure_ascii=False) + "\n"

    def _caption(self, caption: Caption) -> dict[str, Any]:
        values: dict[str, Any] = {
            "caption": caption.text,
            "log_prob": round(caption.log_prob, 4),
            "confidence": round(caption.confidence, 4),
        }
        if not caption.satisfied:
            values["satisfied"] = False
        if self.words:
            values["words"] = [
                {"word": word.text, "probability": round(word.probability, 4)}
                | (
                    {}
                    if word.attention is None
                    else {"attention": [[round(float(x), 4) for x in r] for r in word.attention]}
                )
                for word in caption.words
            ]
        return values

    def read(self, row: bytes) -> tuple[Key, int]:
        values = parse_json(row.decode())
        captions = values.get("captions") if isinstance(values, dict) else None
        if not (
            isinstance(values, dict)
            and isinstance(values.get("image"), str)
            and isinstance(captions, list)
            and all(isinstance(c, dict) and {"caption", "log_prob"} <= c.keys() for c in captions)
        ):
            raise ValueError("not an image with captions and log probabilities")
        return values["image"], len(row)

    def is_unfinished(self, row: bytes, *, first: bool) -> bool:
        return _is_begun(_cut_text(row), '{"image": "', _STRING, '", "captions": [{"caption": "')


_CELL = r'(?:"(?:[^"]|"")*+"|[^",\r\n]*+)'
_NUMBER = r"-?\d+\.\d{4}"
_OPEN_NUMBER = r"-?(?:\d+(?:\.\d{0,4})?)?"
_ROW = re.compile(rf"({_CELL}),({_CELL}),([^\",\r\n]+),([^\",\r\n]+)\r?\n")
_ROW_WITHOUT_LINE_END = re.compile(rf"({_CELL}),({_CELL}),({_NUMBER}),({_NUMBER})")
# No caption that jaxcap wrote has a line break. A name may have one, but with a comma as well it
# may also be rows after a stray quote.
_CAPTION = r'(?:"(?:[^"\r\n]|"")*+"|[^",\r\n]*+)'
_NAME = rf'(?:{_CAPTION}|"(?:[^",]|"")*+")'
_OPEN_CAPTION = r'(?:"(?:[^"\r\n]|"")*+"?|[^",\r\n]*+)'
_OPEN_NAME = rf'(?:{_OPEN_CAPTION}|"(?:[^",]|"")*+"?)'
_UNFINISHED_ROW = re.compile(
    rf"{_OPEN_NAME}|{_NAME},(?:{_OPEN_CAPTION}|{_CAPTION},{_OPEN_NUMBER}"
    rf"|{_CAPTION},{_NUMBER},{_OPEN_NUMBER})"
)
_LINE_WITH_OPEN_QUOTE = re.compile(rf'(?:{_CELL},)?"(?:[^"]|"")*+'.encode())


def _ends_row(line: bytes) -> bool:
    """Return whether a line ends with the two numbers of a row."""
    cells = line.rsplit(b",", 2)[1:]
    try:
        return len([float(cell) for cell in cells]) == 2
    except ValueError:
        return False


class Csv(Format):
    """A table with the columns image, caption, log_prob and confidence, named in its first line.

    A name or caption that a spreadsheet would take for a formula has a `'` before it.
    """

    name = "csv"
    head = "image,caption,log_prob,confidence\n"
    expected = (
        'IMAGE,CAPTION,LOG_PROB,CONFIDENCE (text that holds a comma or a quote: "a 5"" pipe")'
    )

    def key(self, name: str) -> Key:
        return encoded(harmless(name)).decode()

    def entry(self, result: Captioned) -> str:
        best = result.captions[0]
        cells = (_cell(harmless(text)) for text in (result.name, one_line(best.text)))
        return f"{','.join(cells)},{best.log_prob:.4f},{best.confidence:.4f}\n"

    def rows(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Group lines into rows: a quoted cell may hold line breaks.

        A line that ends with the two numbers of a row ends the group even inside quotes. Otherwise
        one stray quote would turn the rest of the file into a single cell.
        """
        row: list[bytes] = []
        for line in lines:
            if row:
                is_open = line.count(b'"') % 2 == 0
            else:
                is_open = _LINE_WITH_OPEN_QUOTE.fullmatch(line) is not None
            row.append(line)
            if not is_open or _ends_row(line):
                yield b"".join(row)
                row = []
        if row:
            yield b"".join(row)

    def read(self, row: bytes) -> tuple[Key, int]:
        text = row.decode()
        match = _ROW.fullmatch(text) or _ROW_WITHOUT_LINE_END.fullmatch(text)
        if match is None or not _ends_row(row):
            raise ValueError("not a name, a caption and two numbers")
        name = match[1]
        name = name[1:-1].replace('""', '"') if name.startswith('"') else name
        return harmless(name), len(row)

    def is_unfinished(self, row: bytes, *, first: bool) -> bool:
        in_quotes = row.count(b'"') % 2 == 1
        if in_quotes and _ends_row(row):  # a whole row after a stray quote
            return False
        return _UNFINISHED_ROW.fullmatch(_cut_text(row)) is not None


JSON_SPACE = " \t\r\n"
"""White space between the values of JSON; `str.strip` also removes other characters."""


class Coco(Format):
    """COCO results, `[{"image_id": …, "caption": …}, …]`: one JSON array, one entry per line.

    The id is the number in a name such as `COCO_val2014_000000391895.jpg` or `000000391895.jpg`.
    For other names it is the path.
    """

    name = "coco"
    head = "[\n"
    between = ",\n"
    tail = "\n]\n"
    expected = '{"image_id": …, "caption": …}, one to a line, with commas between them'

    def key(self, name: str) -> Key:
        match = re.fullmatch(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})", Path(name).stem)
        return int(match[1]) if match else name

    def entry(self, result: Captioned) -> str:
        values = {"image_id": self.key(result.name), "caption": result.captions[0].text}
        return json.dumps(values, ensure_ascii=False)

    def read(self, row: bytes) -> tuple[Key, int]:
        text = row.decode()
        end = text.rindex("}") + 1
        values = parse_json(text[:end])
        if (
            # "]" after the comma: the next entry was being written over the end of the list.
            text[end:].strip(JSON_SPACE) not in ("", ",", "]", ",]")
            or not isinstance(values, dict)
            or not isinstance(values.get("image_id"), (str, int))
            or not isinstance(values.get("caption"), str)
        ):
            raise ValueError("not an image_id and a caption")
        return values["image_id"], len(text[:end].encode())

    def is_unfinished(self, row: bytes, *, first: bool) -> bool:
        return _is_begun(
            _cut_text(row), '{"image_id": ', rf'(?:\d++|"{_STRING}"?)', ', "caption": "'
        )


FORMATS: dict[str, type[Format]] = {each.name: each for each in (Text, JsonLines, Csv, Coco)}
SUFFIXES = {".txt": "text", ".tsv": "text", ".jsonl": "jsonl", ".csv": "csv", ".json": "coco"}


def encoded(text: str) -> bytes:
    """Encode as UTF-8; write bytes of a file name that are not text as `\\udcff`, as JSON does."""
    return text.encode("utf-8", errors="backslashreplace")


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\r\n]', text) else text


def _cut_text(data: bytes) -> str:
    """Decode UTF-8 that may end within a character; "\\n", which begins no entry, if it is not."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return "\n"


_STRING = r'(?:[^"\\\x00-\x1f]|\\.)*+(?:\\\Z)?'
"""The inside of a JSON string, which may break off within an escape."""

_JSON_TOKEN = re.compile(
    r'"(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*+(?:"|(?P<cut>(?:\\(?:u[0-9a-fA-F]{0,3})?)?)\Z)|[\[\]{}]'
)
_CLOSING = {"{": "}", "[": "]"}


def _is_begun(text: str, start: str, value: str, link: str) -> bool:
    """Return whether `text` is the unfinished beginning of one of our JSON entries.

    Args:
      start: how the entry starts.
      value: pattern of the value that follows.
      link: what follows that value.
    """
    if start.startswith(text):
        return True
    match = re.match(re.escape(start) + value, text)
    if match is None or "\n" in text:
        return False
    rest = text[match.end() :]
    if not (link.startswith(rest) or rest.startswith(link)):
        return False
    return not _is_json(text) and any(_is_json(text + ending) for ending in _endings(text))


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _endings(text: str) -> Iterator[str]:
    """Yield endings, one of which completes `text` if it is the beginning of a JSON value."""
    stack: list[str] = []
    cut = None
    for token in _JSON_TOKEN.finditer(text):
        cut = token["cut"]
        if token[0] in _CLOSING:
            stack.append(_CLOSING[token[0]])
        elif token[0] in ("}", "]") and stack:
            stack.pop()
    closing = "".join(reversed(stack))
    if cut is None:
        # A value, a colon with one, a key with one, or the rest of `false`.
        endings = ["", "0", ":0", '"":0', "alse", "lse", "se", "e"]
    else:
        escape = "\\" if cut == "\\" else "0" * (6 - len(cut)) if cut else ""
        endings = [escape + '"', escape + '":0']
    yield from (ending + closing for ending in endings)
