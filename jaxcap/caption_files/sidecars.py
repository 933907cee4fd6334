"""Read sidecars: files of captions that stand beside an image and have its name.

`photo.txt` and `photo.caption` hold one caption per line, as trainers of image generators expect.
`photo.json` is an object with the key `caption`, as img2dataset writes it
(https://github.com/rom1504/img2dataset), or `description`, as Google Takeout does. The same files
are members of WebDataset shards.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from jaxcap.caption_files.column_names import CAPTION_NAMES, Names
from jaxcap.caption_files.reading import caption_texts
from jaxcap.caption_files.text_files import decode_text, numbered_lines, read_json, shown
from jaxcap.messages.errors import InputError

SIDECARS = (".txt", ".caption", ".json")
"""The suffixes of sidecars. If an image has several, the first of these is read."""

_BOX = re.compile(r"\d+(?: [\d.]+){4,}")
"""A line of YOLO's labels: a class, then the coordinates of its box or outline."""
_NUMBERED = re.compile(r"(.*)(\(\d+\))(\.\w+)")
_TAKEOUT_LENGTH = 46


def sidecar_names(image: str) -> dict[str, list[str]]:
    """Return the names that the sidecars of an image may have, by suffix.

    For `a.jpg` these are `a.txt`, `a.TXT`, `a.jpg.txt`, …, and Google Takeout's
    `a.jpg.supplemental-metadata.json`, which it cuts to 51 characters. There, `a(1).jpg` has
    `a.jpg.supplemental-metadata(1).json`.
    """
    stem = PurePath(image).stem
    names = {s: [stem + s, stem + s.upper(), image + s] for s in SIDECARS}
    start, number, end = m.groups() if (m := _NUMBERED.fullmatch(image)) else (image, "", "")
    cut = f"{start}{end}.supplemental-metadata"[:_TAKEOUT_LENGTH]
    names[".json"].append(f"{cut}{number}.json")
    return names


def sidecar_captions(path: Path, data: bytes) -> list[tuple[str, str]]:
    """Return the captions in a sidecar, each with its place, such as "line 2".

    Args:
      path: names the file in error messages, and tells its kind by its suffix.
      data: the content.

    Raises:
      InputError: the content cannot be decoded, is JSON without a caption, or has boxes of objects.
    """
    text = decode_text(data, path)
    if path.suffix.lower() != ".json":
        lines = [(line.strip(), f"line {number}") for number, line in numbered_lines(text)]
        if lines and all(_BOX.fullmatch(line) for line, _ in lines):
            raise InputError(
                f"{path}: boxes (YOLO labels), not captions; found {shown(lines[0][0])}"
            )
        return lines
    if not text.strip():
        return []
    document = read_json(path, text)
    keys = Names().captions_in(document) if isinstance(document, dict) else ()
    if not keys:
        known = ", ".join(CAPTION_NAMES[:3])
        raise InputError(
            f"{path}: no caption; expected an object with one of {known}, …; found "
            f"{shown(document)}"
        )
    found: list[str] = []
    for value in (document[key] for key in keys if document[key] is not None):
        if (texts := caption_texts(value)) is None:
            raise InputError(f"{path}: the caption is {shown(value)}; expected text")
        found += texts
    return [(text, "") for text in found]
