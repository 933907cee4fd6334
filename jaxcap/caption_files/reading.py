"""Read caption files in common formats: images, their ids and their captions.

The same reader serves predictions and references. It detects the format from the content;
`read_captions` lists the formats.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxcap.caption_files.column_names import CAPTION_NAMES, ID_NAMES, Names, id_text, one_spelling
from jaxcap.caption_files.text_files import (
    Problems,
    fail,
    find_table,
    is_json_lines,
    list_in_cell,
    numbered_lines,
    read_json,
    read_json_lines,
    read_table,
    read_text,
    shown,
)
from jaxcap.files.json_data import Repeated

COCO = "COCO annotations"
KARPATHY = "Karpathy's dataset file"
RESULTS = "COCO results"
TOKENS = "Flickr token file"
MAPPING = "JSON object of images"
LINES = "JSON lines"
TABLE = "table"
PARQUET = "Parquet file"

_NO_CAPTION = ("nan", "NaN", "<NA>", "None", "#N/A", "#NAME?")
"""What pandas and Excel write into a cell without text."""
_TOKEN_LINE = re.compile(r"(?P<image>[^\t]+)#(?P<number>[^\t#]+)\t(?P<caption>.*)")
_EXPECTED = (
    "COCO results or annotations, Karpathy's dataset file, a JSON object {image: caption}, JSON "
    "lines, a CSV or TSV file with its columns named in the first line, or a Flickr token file "
    "(NAME.jpg#0<TAB>caption)"
)


@dataclass
class ImageCaptions:
    """An image with its ids and its captions, in the order of the file.

    Attributes:
      ids: kind of id ("image_id", "file_name", …) to the id as text.
      captions: one or more. Of an n-best list, only the best.
      split: the split, if the file names splits.
      n_best: the n-best list of a model with log probabilities in nats, if the file has one.
      place: where the image first occurs in the file, such as "line 3".
      places: where each caption occurs.
      folder: the folder of the image file, if a file in Karpathy's format names it.
    """

    ids: dict[str, str]
    captions: list[str]
    split: str | None = None
    n_best: list[tuple[str, float]] = field(default_factory=list)
    place: str = ""
    places: list[str] = field(default_factory=list)
    folder: str = ""


@dataclass
class CaptionFile:
    """The contents of a caption file.

    Attributes:
      path: the file.
      format: the name of the format, one of the constants above.
      images: the images with captions, in the order in which they first occur.
      bare_images: the images without captions.
      tokenised: whether the file holds tokens, which were joined by spaces.
    """

    path: Path
    format: str
    images: list[ImageCaptions]
    bare_images: list[ImageCaptions] = field(default_factory=list)
    tokenised: bool = False

    @property
    def bare(self) -> int:
        """The number of images without captions."""
        return len(self.bare_images)


@dataclass
class _Collector:
    """Groups entries into images by their first id, in any spelling of a path but its case."""

    problems: Problems
    images: dict[str, ImageCaptions] = field(default_factory=dict)

    def add(self, ids: dict[str, str], value: object, place: str, split: object = None) -> None:
        """Add the caption or captions in `value`; report a problem if it holds none."""
        key = next(iter(ids.values()))
        n_best = _n_best(value)
        texts = [n_best[0][0]] if n_best else _texts(value, f"{place} (image {key})", self.problems)
        if texts:
            image = self.images.setdefault(one_spelling(key), ImageCaptions(ids, [], place=place))
            for kind, other in image.ids.items():
                if one_spelling(ids.get(kind, other)) != one_spelling(other):
                    self.problems.add(
                        place, f"image {key} has the {kind} {ids[kind]} here and {other} before"
                    )
            image.captions += texts
            image.places += [place] * len(texts)
            image.n_best = image.n_best or n_best
            if (text := id_text(split)) is not None:
                if image.split not in (None, text):
                    self.problems.add(
                        place,
                        f"image {key} is in the split {text} here and in {image.split} before",
                    )
                image.split = text


def read_captions(
    path: Path, names: Names | None = None, problems: Problems | None = None
) -> CaptionFile:
    """Read a caption file.

    Formats: COCO results `[{"image_id": …, "caption": …}, …]`; COCO annotations (`images` and
    `annotations`); Karpathy's `dataset_*.json`; a JSON object that maps images to a caption or a
    list of captions; JSON lines with `caption` or `captions`, such as `jaxcap caption --json`
    writes; CSV, TSV and similar tables with a header; Parquet; Flickr token files.

    Args:
      path: the file.
      names: columns or keys, if the file does not use the common names.
      problems: collects the problems of single entries. If None, they are raised as an error.

    Raises:
      InputError: the file cannot be read, is malformed or has none of these formats, or it holds
        no captions or captions that are not text. Lists all problems with lines or entries.
    """
    names, collected = names or Names(), problems
    problems = Problems(path) if collected is None else collected
    if path.suffix.lower() == ".parquet":
        from jaxcap.data.image_parquet import parquet_rows  # pyarrow takes a while to load

        rows = ((f"row {n}", row) for n, (*_, row) in enumerate(parquet_rows(path), start=1))
        found = _entries(path, PARQUET, rows, problems, names)
    elif (text := read_text(path)).lstrip()[0] not in "{[":
        found = _read_lines(path, text, problems, names)
    elif is_json_lines(text):
        found = _entries(path, LINES, read_json_lines(text, problems), problems, names)
    else:
        found = _read_document(path, read_json(path, text), problems, names)
    if collected is not None and (collected.found or collected.gaps):
        return found
    problems.raise_if_any()
    if not found.images:
        fail(path, f"{found.format} without a caption", "one image or more")
    return found


def _read_document(path: Path, document: Any, problems: Problems, names: Names) -> CaptionFile:
    if isinstance(document, list):
        entries = _objects(document, "entry", problems)
        return _entries(path, RESULTS, entries, problems, names)
    if not isinstance(document, dict):
        fail(path, f"JSON that is only {shown(document)}", _EXPECTED)
    if isinstance(document.get("annotations"), list):
        return _read_coco(path, document, problems, names)
    images = document.get("images")
    if isinstance(images, list) and any(isinstance(i, dict) and "sentences" in i for i in images):
        return _read_karpathy(path, images, problems, names)
    if isinstance(images, list):
        fail(
            path, "a list of images without captions (no 'annotations', no 'sentences')", _EXPECTED
        )
    if names.ids(document) and names.captions_in(document):
        return _entries(path, LINES, iter([("line 1", document)]), problems, names)
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


def _texts(value: object, place: str, problems: Problems) -> list[str]:
    """Return the captions in a text, a list of texts, or a list of objects with captions."""
    is_gap = value is None or value == [] or value != value
    if not is_gap and (texts := caption_texts(value)):
        return texts
    add = problems.add_gap if is_gap else problems.add
    add(place, f"the caption is {_kind(value)}; expected text")
    return []


def caption_texts(value: object) -> list[str] | None:
    """Return the captions in a text, a list of texts, or a list of objects with captions.

    Returns:
      The captions, or None if anything else is among the values.
    """
    values = value if isinstance(value, list) else [value]
    texts = [text for each in values if (text := _text(each)) is not None]
    return texts if len(texts) == len(values) else None


def _text(value: object) -> str | None:
    if isinstance(value, dict):
        name = next((n for n in CAPTION_NAMES if n in value), "")
        value = value.get(name)
    return value if isinstance(value, str) else None


def _n_best(value: object) -> list[tuple[str, float]]:
    """Return the n-best list that `jaxcap caption --json` writes, or an empty list."""
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        return []
    pairs = [(_text(each), each.get("log_prob")) for each in value]
    found = [(t, float(p)) for t, p in pairs if t is not None and _is_number(p)]
    return found if len(found) == len(value) else []


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", dict: "an object"}
    if value is None:
        return "null"
    if value == []:
        return "an empty list"
    if isinstance(value, list):
        odd = next((v for v in value if _text(v) is None), "")
        if odd == "":
            return f"a list: {shown(value)}"
        return f"a list with {'a list' if isinstance(odd, list) else _kind(odd)} in it"
    return f"{kinds.get(type(value), 'no text')}: {shown(value)}"


def _entries(
    path: Path,
    format: str,
    entries: Iterator[tuple[str, dict[str, Any]]],
    problems: Problems,
    names: Names,
) -> CaptionFile:
    """Collect entries of any kind that each have an id and one or more captions."""
    collector = _Collector(problems)
    for place, entry in entries:
        ids, under = names.ids(entry), names.captions_in(entry)
        if not ids:
            known = ID_NAMES[:4] if names.image is None else (names.image,)
            expected = f"expected one of {', '.join(known)}, …{_option(names, '--image-column')}"
            problems.add(place, f"no image id; {expected}; found {_names(entry)}")
        elif "error" in entry and not any(entry[name] for name in under):
            # `jaxcap caption --json` writes such entries for files that are not images.
            problems.add(place, f"{next(iter(ids.values()))} has no caption: {entry['error']}")
        elif not under:
            columns = ", ".join(names.captions or CAPTION_NAMES[:3])
            expected = f"expected one of {columns}, …{_option(names, '--caption-columns')}"
            problems.add(place, f"no caption; {expected}; found {_names(entry)}")
        else:
            if format == TABLE:
                entry = entry | {
                    name: None if entry[name] in _NO_CAPTION else list_in_cell(entry[name])
                    for name in under
                }
            value = entry[under[0]] if len(under) == 1 else _joined(entry, under)
            collector.add(ids, value, place, names.split_of(entry))
    return CaptionFile(path, format, list(collector.images.values()))


def _joined(entry: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    """Return the captions in several columns, such as caption_1, caption_2, …, unless empty."""
    values = [entry[name] for name in names if entry[name] not in ("", None)]
    return [each for value in values for each in (value if isinstance(value, list) else [value])]


def _option(names: Names, option: str) -> str:
    return f", or another with {option}" if names.nameable else ""


def _names(entry: Mapping[str, Any]) -> str:
    return ", ".join(list(entry)[:6]) or "nothing"


def _read_mapping(path: Path, document: dict[str, Any], problems: Problems) -> CaptionFile:
    collector = _Collector(problems)
    pairs = document.pairs if isinstance(document, Repeated) else document.items()
    for number, (name, value) in enumerate(pairs, start=1):
        collector.add({"image": name}, value, f"entry {number}")
    if not collector.images and document:
        # No value is a caption, so this is another kind of file.
        fail(path, f"a JSON object with {_names(document)}", _EXPECTED)
    return CaptionFile(path, MAPPING, list(collector.images.values()))


def _read_coco(
    path: Path, document: dict[str, Any], problems: Problems, names: Names
) -> CaptionFile:
    images: dict[str, ImageCaptions] = {}
    for place, record in _objects(document.get("images") or [], "image", problems):
        key = id_text(record.get("id"))
        if key is None:
            problems.add(place, f"no id; found {_names(record)}")
            continue
        if key in images:
            problems.add(place, f"the id {key} is also that of {images[key].place}")
        ids = {"id": key, "file_name": id_text(record.get("file_name"))}
        images[key] = ImageCaptions(
            {kind: text for kind, text in ids.items() if text is not None},
            [],
            split=id_text(names.split_of(record)),
            place=place,
        )
    listed = bool(images)
    for place, record in _objects(document["annotations"], "annotation", problems):
        key = id_text(record.get("image_id"))
        if key is None:
            problems.add(place, f"no image_id; found {_names(record)}")
        elif listed and key not in images:
            problems.add(place, f"image_id {key} is not among the file's images")
        elif not isinstance(record.get("caption"), str):
            found = _kind(record["caption"]) if "caption" in record else "missing"
            problems.add(f"{place} (image {key})", f"the caption is {found}; expected text")
        else:
            image = images.setdefault(key, ImageCaptions({"id": key}, [], place=place))
            image.captions.append(record["caption"])
            image.places.append(place)
    return _split_bare(CaptionFile(path, COCO, list(images.values())))


def _split_bare(file: CaptionFile) -> CaptionFile:
    bare = [image for image in file.images if not image.captions]
    captioned = [image for image in file.images if image.captions]
    return replace(file, images=captioned, bare_images=bare)


def _read_karpathy(path: Path, records: list[Any], problems: Problems, names: Names) -> CaptionFile:
    file = CaptionFile(path, KARPATHY, [])
    for place, record in _objects(records, "image", problems):
        ids = {
            name: text
            for name in ("cocoid", "filename", "imgid")
            if (text := id_text(record.get(name))) is not None
        }
        if not ids:
            problems.add(place, f"no filename, imgid or cocoid; found {_names(record)}")
            continue
        image = ImageCaptions(ids, [], split=id_text(names.split_of(record)), place=place)
        image.folder = id_text(record.get("filepath")) or ""
        sentences = record.get("sentences") or []
        if not isinstance(sentences, list):
            problems.add(place, f"expected a list of sentences, found {shown(sentences)}")
            continue
        for number, sentence in enumerate(sentences, start=1):
            raw = sentence.get("raw") if isinstance(sentence, dict) else None
            tokens = sentence.get("tokens") if isinstance(sentence, dict) else None
            where = f"{place} (image {next(iter(ids.values()))}), sentence {number}"
            image.places.append(where)
            if isinstance(raw, str):
                image.captions.append(raw)
            elif isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
                file.tokenised = True
                image.captions.append(" ".join(tokens))
            else:
                image.places.pop()
                problems.add(
                    where, f"no text under 'raw', no words under 'tokens'; found {shown(sentence)}"
                )
        file.images.append(image)
    return _split_bare(file)


def _read_lines(path: Path, text: str, problems: Problems, names: Names) -> CaptionFile:
    first = next(line for _, line in numbered_lines(text))
    if _TOKEN_LINE.fullmatch(first):
        return _read_tokens(path, text, problems)
    table = find_table(text)
    columns, first = table.columns, table.first
    names, record = names.of_columns(), dict.fromkeys(columns, "")
    if missing := [name for name in names.given if name not in columns]:
        fail(
            path,
            f"no column {', '.join(map(repr, missing))} in the first line, {shown(first)}",
            f"that column, or one of {', '.join(map(repr, columns))}",
        )
    has_id = bool(names.ids(dict.fromkeys(columns, "x")))
    if not has_id or not names.captions_in(record):
        what, known = ("caption", CAPTION_NAMES) if has_id else ("image", ID_NAMES)
        fail(
            path,
            f"no {what} column (of {', '.join(known[:4])}, …) in the first line, {shown(first)}",
            "one of these names, or others with --image-column and --caption-columns"
            if names.nameable and len(columns) > 1
            else _EXPECTED,
        )
    count = Counter(columns)
    read = (*names.captions_in(record), *names.ids(dict.fromkeys(columns, "x")))
    if twice := [name for name in read if count[name] > 1]:
        fail(path, f"{count[twice[0]]} columns {twice[0]!r}", "different names of columns")
    return _entries(path, TABLE, read_table(table, problems), problems, names)


def _read_tokens(path: Path, text: str, problems: Problems) -> CaptionFile:
    """Read a Flickr token file; captions are ordered by their numbers."""
    lines: dict[str, dict[str, tuple[str, str]]] = {}
    for number, line in numbered_lines(text):
        match, place = _TOKEN_LINE.fullmatch(line), f"line {number}"
        if match is None:
            problems.add(place, f"expected NAME.jpg#NUMBER<TAB>CAPTION, found {shown(line)}")
            continue
        of_image = lines.setdefault(match["image"], {})
        if match["number"] in of_image:
            first, _ = of_image[match["number"]]
            problems.add(place, f"{match['image']}#{match['number']} is also in {first}")
        of_image[match["number"]] = place, match["caption"].strip()
    collector = _Collector(problems)
    for image, captions in lines.items():
        for key in sorted(captions, key=lambda n: int(n) if len(n) < 9 and n.isdecimal() else 0):
            place, caption = captions[key]
            collector.add({"image": image}, caption, place)
    return CaptionFile(path, TOKENS, list(collector.images.values()))
