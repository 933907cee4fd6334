"""How captions are written down: text, JSON lines, a table, COCO results.

A file is a head, the entries of the images with something between them, and a tail, so that it
can be appended to, see `caption_files`; each format also reads its entries back.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcap.captioning.stream import Caption, Captioned

Key = str | int
"""What an image is called in a file."""


@dataclass(frozen=True)
class Format:
    """A way to write captions down; `text`, `jsonl`, `csv` and `coco` are its kinds.

    Attributes:
      words: also write the probability of each word and where the model looked, where there is
        room for it.
    """

    words: bool = False

    name = ""
    head = ""
    between = ""
    tail = ""

    def key(self, name: str) -> Key:
        """What an image of this name is called in the file."""
        return name

    def entry(self, result: Captioned) -> str:
        """The entry of an image, with its end of line where the format has one for each."""
        raise NotImplementedError

    def read(self, line: bytes) -> tuple[Key, int]:
        """The key of the entry that stands in `line`, and how many of its bytes are the entry.

        Raises:
          ValueError: there is no whole entry.
        """
        raise NotImplementedError

    def is_whole(self, lines: bytes) -> bool:
        """Whether an entry may end here: in some formats it can have several lines."""
        return lines.endswith(b"\n")

    def may_begin(self, data: bytes, *, first: bool) -> bool:
        """Whether `data` can be the beginning of an entry that was cut off.

        If not, it is somebody else's and must not be lost.

        Args:
          first: it would be the first entry of the file.
        """
        return True


class Text(Format):
    """`NAME<TAB>CAPTION`, a line for each image."""

    name = "text"

    def key(self, name: str) -> Key:
        return encoded(one_line(name)).decode()

    def entry(self, result: Captioned) -> str:
        return f"{one_line(result.name)}\t{one_line(result.captions[0].text)}\n"

    def read(self, line: bytes) -> tuple[Key, int]:
        name, tab, _ = line.decode().partition("\t")
        if not (name and tab and line.endswith(b"\n")):
            raise ValueError("expected NAME<TAB>CAPTION")
        return name, len(line)

    def may_begin(self, data: bytes, *, first: bool) -> bool:
        return not first and b"\0" not in data


class JsonLines(Format):
    """`{"image": …, "captions": [{"caption": …, "log_prob": …, "confidence": …}, …]}` a line."""

    name = "jsonl"

    def entry(self, result: Captioned) -> str:
        values: dict[str, Any] = {
            "image": result.name,
            "captions": [self._caption(caption) for caption in result.captions],
        }
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

    def read(self, line: bytes) -> tuple[Key, int]:
        values = json.loads(line)
        if not self._is_entry(values) or not line.endswith(b"\n"):
            raise ValueError(
                'expected {"image": …, "captions": [{"caption": …, "log_prob": …}, …]}'
            )
        return values["image"], len(line)

    def may_begin(self, data: bytes, *, first: bool) -> bool:
        try:
            values = json.loads(data)
        except ValueError:
            return _one_begins_the_other(data, b'{"image": "')
        # Whole but for the end of the line: a list of people's captions may look much the same.
        return self._is_entry(values)

    def _is_entry(self, values: Any) -> bool:
        if not isinstance(values, dict) or not isinstance(values.get("image"), str):
            return False
        captions = values.get("captions")
        return isinstance(captions, list) and all(
            isinstance(caption, dict) and {"caption", "log_prob"} <= caption.keys()
            for caption in captions
        )


class Csv(Format):
    """A table of image, caption, log_prob and confidence, with these names in its first line."""

    name = "csv"
    head = "image,caption,log_prob,confidence\n"

    def key(self, name: str) -> Key:
        return encoded(name).decode()

    def entry(self, result: Captioned) -> str:
        best = result.captions[0]
        cells = map(_cell, (result.name, best.text))
        return f"{','.join(cells)},{best.log_prob:.4f},{best.confidence:.4f}\n"

    def read(self, line: bytes) -> tuple[Key, int]:
        try:
            (cells,) = csv.reader(io.StringIO(line.decode(), newline=""), strict=True)
        except csv.Error as error:
            raise ValueError(str(error)) from None
        if len(cells) != 4 or not self.is_whole(line):
            raise ValueError(f"expected four cells, found {len(cells)}")
        return cells[0], len(line)

    def is_whole(self, lines: bytes) -> bool:
        return lines.endswith(b"\n") and lines.count(b'"') % 2 == 0


class Coco(Format):
    """COCO results, `[{"image_id": …, "caption": …}, …]`: one JSON array, an entry a line.

    The id is the number in a name such as `COCO_val2014_000000391895.jpg` or `000000391895.jpg`,
    else the path.
    """

    name = "coco"
    head = "[\n"
    between = ",\n"
    tail = "\n]\n"

    def key(self, name: str) -> Key:
        match = re.fullmatch(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})", Path(name).stem)
        return int(match[1]) if match else name

    def entry(self, result: Captioned) -> str:
        values = {"image_id": self.key(result.name), "caption": result.captions[0].text}
        return json.dumps(values, ensure_ascii=False)

    def read(self, line: bytes) -> tuple[Key, int]:
        text = line.decode()
        values, end = json.JSONDecoder().raw_decode(text)
        # A bracket right after it: the next entry was begun over the end, and cut off.
        if text[end:].strip() not in ("", ",", "]", ",]") or "image_id" not in values:
            raise ValueError('expected {"image_id": …, "caption": …}')
        return values["image_id"], len(text[:end].encode())

    def may_begin(self, data: bytes, *, first: bool) -> bool:
        return _one_begins_the_other(data.lstrip(), b'{"image_id": ')


FORMATS: dict[str, type[Format]] = {each.name: each for each in (Text, JsonLines, Csv, Coco)}
SUFFIXES = {".txt": "text", ".tsv": "text", ".jsonl": "jsonl", ".csv": "csv", ".json": "coco"}


def one_line(text: str) -> str:
    """Line breaks, tabs and other control characters written as escapes, as in `\\n`."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found[0])[1:-1], text)


def encoded(text: str) -> bytes:
    """UTF-8; bytes of file names that are no text are written as `\\udcff`, as JSON has them."""
    return text.encode("utf-8", errors="backslashreplace")


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\r\n]', text) else text


def _one_begins_the_other(a: bytes, b: bytes) -> bool:
    return a.startswith(b) or b.startswith(a)
