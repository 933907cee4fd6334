"""Files of captions, in the formats that people have: images, their ids, and their captions.

One reader for what models wrote and what people wrote; which format a file is in, is told from
its content (`read_captions` lists them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxcap.scoring.reading import (
    Problems,
    Repeated,
    fail,
    is_json_lines,
    numbered_lines,
    read_json,
    read_json_lines,
    read_table,
    read_text,
    shown,
    table_columns,
)

ID_NAMES = (
    "image_id", "image", "file_name", "filename", "image_name", "image_path", "file_path",
    "filepath", "path", "file", "img", "img_id", "imgid", "cocoid",
)  # fmt: skip
LAST_ID_NAMES = ("id", "name")
"""Used where there is no other: beside an `image_id`, COCO's `id` is the caption's."""
CAPTION_NAMES = (
    "caption", "captions", "prediction", "generated_caption", "hypothesis", "reference",
    "references", "sentence", "sentences", "comment", "text", "description",
)  # fmt: skip

COCO = "COCO annotations"
KARPATHY = "Karpathy's dataset file"
RESULTS = "COCO results"
TOKENS = "Flickr token file"
MAPPING = "JSON object of images"
LINES = "JSON lines"
TABLE = "table"

_TOKEN_LINE = re.compile(r"(?P<image>[^\t]+)#(?P<number>[^\t#]+)\t(?P<caption>.*)")
_NUMBERED_CAPTION = re.compile(r"(caption|reference|comment|sentence)_?\d+")
_EXPECTED = (
    "COCO results or annotations, Karpathy's dataset file, a JSON object {image: caption}, JSON "
    "lines, a CSV or TSV file with its columns named in the first line, or a Flickr token file "
    "(NAME.jpg#0<TAB>caption)"
)


@dataclass
class ImageCaptions:
    """An image, by all the ids its file gives, and its captions in the order of the file.

    Attributes:
      ids: kind of id ("image_id", "file_name", …) to the id as text.
      captions: one or more. Of a model's n best only the first, which is its answer.
      split: of those files that name splits.
      n_best: a model's n best captions with their log probabilities, where the file has them.
    """

    ids: dict[str, str]
    captions: list[str]
    split: str | None = None
    n_best: list[tuple[str, float]] = field(default_factory=list)


@dataclass
class CaptionFile:
    """What a file holds.

    Attributes:
      path: the file.
      format: one of the names above, to be shown.
      images: in the order in which they first occur.
      bare: how many images there are that have no caption; they are not in `images`.
      tokenised: the file holds words, not sentences; they were joined by spaces.
    """

    path: Path
    format: str
    images: list[ImageCaptions]
    bare: int = 0
    tokenised: bool = False


@dataclass
class _Collector:
    """Gathers entries into images by their first id."""

    problems: Problems
    images: dict[str, ImageCaptions] = field(default_factory=dict)

    def add(self, ids: dict[str, str], value: object, place: str, split: object = None) -> None:
        """Adds the caption or captions that `value` holds; says so if it holds none."""
        key = next(iter(ids.values()))
        n_best = _n_best(value)
        texts = [n_best[0][0]] if n_best else _texts(value, f"{place} (image {key})", self.problems)
        if texts:
            image = self.images.setdefault(key, ImageCaptions(ids, []))
            image.captions += texts
            image.n_best = image.n_best or n_best
            image.split = split if isinstance(split, str) else image.split


def read_captions(path: Path) -> CaptionFile:
    """Reads a file of captions.

    Formats: COCO results `[{"image_id": …, "caption": …}, …]`; COCO annotations (`images` and
    `annotations`); Karpathy's `dataset_*.json`; a JSON object of images, each with a caption or a
    list of them; JSON lines, with `caption` or `captions`, among them those of
    `jaxcap caption --json`; CSV, TSV and the like, columns named in the first line; Flickr token
    files.

    Raises:
      InputError: the file cannot be read, is of none of these formats, is malformed, holds no
        caption, or holds captions that are no text; lists what is wrong, with lines or entries.
    """
    text = read_text(path)
    problems = Problems(path)
    if text.lstrip()[0] not in "{[":
        found = _read_lines(path, text, problems)
    elif is_json_lines(text):
        found = _entries(path, LINES, read_json_lines(text, problems), problems)
    else:
        found = _read_document(path, read_json(path, text), problems)
    problems.raise_if_any()
    if not found.images:
        fail(path, f"{found.format} without a caption", "one image or more")
    return found


def _read_document(path: Path, document: Any, problems: Problems) -> CaptionFile:
    if isinstance(document, list):
        entries = _objects(document, "entry", problems)
        return _entries(path, RESULTS, entries, problems)
    if not isinstance(document, dict):
        fail(path, f"JSON that is only {shown(document)}", _EXPECTED)
    if isinstance(document.get("annotations"), list):
        return _read_coco(path, document, problems)
    images = document.get("images")
    if isinstance(images, list) and any(isinstance(i, dict) and "sentences" in i for i in images):
        return _read_karpathy(path, images, problems)
    if isinstance(images, list):
        fail(
            path, "a list of images without captions (no 'annotations', no 'sentences')", _EXPECTED
        )
    if _ids(document) and _caption_name(document):
        return _entries(path, LINES, iter([("line 1", document)]), problems)
    return _read_mapping(path, document, problems)


def _objects(values: Any, what: str, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(values, list):
        problems.add("", f"expected a list of {what}s, found {shown(values)}")
        return
    for number, value in enumerate(values, start=1):
        if isinstance(value, dict):
            yield f"{what} {number}", value
        else:
            problems.add(f"{what} {number}", f"expected an object {{…}}, found {shown(value)}")


def _id_text(value: object) -> str | None:
    """An id as text: 42 and "42" are the same image. None for what can be no id."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value).strip() or None


def _ids(record: Mapping[str, Any]) -> dict[str, str]:
    for names in (ID_NAMES, LAST_ID_NAMES):
        found = {n: text for n in names if (text := _id_text(record.get(n))) is not None}
        if found:
            return found
    return {}


def _caption_name(record: Mapping[str, Any]) -> str | None:
    return next((name for name in CAPTION_NAMES if name in record), None)


def _texts(value: object, place: str, problems: Problems) -> list[str]:
    """The captions in a value: text, a list of texts, or of objects with a caption each."""
    values = value if isinstance(value, list) else [value]
    texts = [text for each in values if (text := _text(each)) is not None]
    if texts and len(texts) == len(values):
        return texts
    problems.add(place, f"the caption is {_kind(value)}; expected text")
    return []


def _text(value: object) -> str | None:
    if isinstance(value, dict):
        name = next((n for n in (*CAPTION_NAMES, "raw") if n in value), "")
        value = value.get(name)
    return value if isinstance(value, str) else None


def _n_best(value: object) -> list[tuple[str, float]]:
    """What `jaxcap caption --json` writes: captions with log probabilities, best first."""
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        return []
    pairs = [(_text(each), each.get("log_prob")) for each in value]
    found = [(t, float(p)) for t, p in pairs if t is not None and isinstance(p, (int, float))]
    return found if len(found) == len(value) else []


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", dict: "an object"}
    if value is None:
        return "null"
    if value == []:
        return "an empty list"
    if isinstance(value, list):
        odd = next(v for v in value if _text(v) is None)
        return f"a list with {'a list' if isinstance(odd, list) else _kind(odd)} in it"
    return f"{kinds.get(type(value), 'no text')}: {shown(value)}"


def _entries(
    path: Path, format: str, entries: Iterator[tuple[str, dict[str, Any]]], problems: Problems
) -> CaptionFile:
    """Entries of any kind that have an id and a caption, or captions, each."""
    collector = _Collector(problems)
    for place, entry in entries:
        ids, name = _ids(entry), _caption_name(entry)
        if not ids:
            expected = f"expected one of {', '.join(ID_NAMES[:4])}, …"
            problems.add(place, f"no image id; {expected}; found {_names(entry)}")
        elif "error" in entry and not (name and entry[name]):
            # `jaxcap caption --json` writes this of a file that is no image.
            problems.add(place, f"{next(iter(ids.values()))} has no caption: {entry['error']}")
        elif name is None:
            expected = f"expected one of {', '.join(CAPTION_NAMES[:3])}, …"
            problems.add(place, f"no caption; {expected}; found {_names(entry)}")
        else:
            collector.add(ids, entry[name], place, entry.get("split"))
    return CaptionFile(path, format, list(collector.images.values()))


def _names(entry: Mapping[str, Any]) -> str:
    return ", ".join(list(entry)[:6]) or "nothing"


def _read_mapping(path: Path, document: dict[str, Any], problems: Problems) -> CaptionFile:
    collector = _Collector(problems)
    pairs = document.pairs if isinstance(document, Repeated) else document.items()
    for number, (name, value) in enumerate(pairs, start=1):
        collector.add({"image": name}, value, f"entry {number}")
    if not collector.images and document:
        # Nothing in it is a caption, so it is another kind of file altogether.
        fail(path, f"a JSON object with {_names(document)}", _EXPECTED)
    return CaptionFile(path, MAPPING, list(collector.images.values()))


def _read_coco(path: Path, document: dict[str, Any], problems: Problems) -> CaptionFile:
    images: dict[str, ImageCaptions] = {}
    for place, record in _objects(document.get("images") or [], "image", problems):
        key = _id_text(record.get("id"))
        if key is None:
            problems.add(place, f"no id; found {_names(record)}")
            continue
        name = _id_text(record.get("file_name"))
        images[key] = ImageCaptions({"id": key} | ({"file_name": name} if name else {}), [])
    listed = bool(images)
    for place, record in _objects(document["annotations"], "annotation", problems):
        key = _id_text(record.get("image_id"))
        if key is None:
            problems.add(place, f"no image_id; found {_names(record)}")
        elif listed and key not in images:
            problems.add(place, f"image_id {key} is not among the file's images")
        elif not isinstance(record.get("caption"), str):
            found = _kind(record["caption"]) if "caption" in record else "missing"
            problems.add(f"{place} (image {key})", f"the caption is {found}; expected text")
        else:
            image = images.setdefault(key, ImageCaptions({"id": key}, []))
            image.captions.append(record["caption"])
    captioned = [image for image in images.values() if image.captions]
    return CaptionFile(path, COCO, captioned, bare=len(images) - len(captioned))


def _read_karpathy(path: Path, records: list[Any], problems: Problems) -> CaptionFile:
    images, tokenised, bare = [], False, 0
    for place, record in _objects(records, "image", problems):
        ids = {
            name: text
            for name in ("cocoid", "filename", "imgid")
            if (text := _id_text(record.get(name))) is not None
        }
        if not ids:
            problems.add(place, f"no filename, imgid or cocoid; found {_names(record)}")
            continue
        captions = []
        for number, sentence in enumerate(record.get("sentences") or [], start=1):
            raw = sentence.get("raw") if isinstance(sentence, dict) else None
            tokens = sentence.get("tokens") if isinstance(sentence, dict) else None
            if isinstance(raw, str):
                captions.append(raw)
            elif isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
                tokenised = True
                captions.append(" ".join(tokens))
            else:
                problems.add(
                    f"{place} (image {next(iter(ids.values()))}), sentence {number}",
                    f"no text under 'raw', no words under 'tokens'; found {shown(sentence)}",
                )
        split = record.get("split")
        bare += not captions
        if captions:
            images.append(
                ImageCaptions(ids, captions, split=split if isinstance(split, str) else None)
            )
    return CaptionFile(path, KARPATHY, images, bare=bare, tokenised=tokenised)


def _read_lines(path: Path, text: str, problems: Problems) -> CaptionFile:
    first = next(line for _, line in numbered_lines(text))
    if _TOKEN_LINE.fullmatch(first):
        return _read_tokens(path, text, problems)
    _, columns = table_columns(text)
    ids = [c for c in (*ID_NAMES, *LAST_ID_NAMES) if c in columns]
    caption = _caption_name(dict.fromkeys(columns))
    numbered = [c for c in columns if _NUMBERED_CAPTION.fullmatch(c)]
    if not ids or (caption is None and not numbered):
        missing = "image" if not ids else "caption"
        known = ID_NAMES[:4] if not ids else CAPTION_NAMES[:4]
        fail(
            path,
            f"no {missing} column (of {', '.join(known)}, …) in the first line, {shown(first)}",
            _EXPECTED,
        )
    return _entries(path, TABLE, _table_entries(text, caption, numbered, problems), problems)


def _table_entries(
    text: str, caption: str | None, numbered: list[str], problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, row in read_table(text, problems):
        entry: dict[str, Any] = dict(row)
        if caption is None:  # caption_1, caption_2, …; cells may stay empty
            entry["captions"] = [row[name] for name in numbered if row[name]]
        yield place, entry


def _read_tokens(path: Path, text: str, problems: Problems) -> CaptionFile:
    collector = _Collector(problems)
    for number, line in numbered_lines(text):
        match = _TOKEN_LINE.fullmatch(line)
        if match is None:
            problems.add(
                f"line {number}", f"expected NAME.jpg#NUMBER<TAB>CAPTION, found {shown(line)}"
            )
        else:
            place = f"line {number}"
            collector.add({"image": match["image"]}, match["caption"].strip(), place)
    return CaptionFile(path, TOKENS, list(collector.images.values()))
