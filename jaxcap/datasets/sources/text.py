"""Read captions without photographs, for a decoder to learn from.

Three kinds of file, also compressed as .gz:

    NAME.jpg#0 <TAB> caption      a Flickr token file; captions of one name belong together
    caption                       plain text, one caption a line; where empty lines separate groups
                                  of captions, each group belongs together
    id,caption                    a table with a header; an optional id or name says which rows
                                  belong together

Captions that belong together describe the same photograph, which is not at hand. They become one
record.
"""

from __future__ import annotations

from pathlib import Path

from jaxcap.caption_files.column_names import CAPTION_NAMES, ID_NAMES, LAST_ID_NAMES, Names
from jaxcap.caption_files.reading import ImageCaptions
from jaxcap.caption_files.text_files import (
    Problems,
    Table,
    fail,
    find_table,
    numbered_lines,
    read_table,
    read_text,
)
from jaxcap.datasets.sources import Example, Listing, SourceOptions
from jaxcap.datasets.sources.assembly import read_file
from jaxcap.datasets.sources.findings import Findings
from jaxcap.messages import Progress, no_progress
from jaxcap.messages.errors import InputError, did_you_mean

_EXPECTED = (
    "a Flickr token file (NAME.jpg#0<TAB>caption), plain text with a caption a line, or a table "
    "with a column of captions"
)


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read all captions as the split `train`, in the order of the file.

    Raises:
      InputError: lists all problems of the file.
    """
    path = options.source
    if path is None or not path.is_file():
        found = "no source given" if path is None else f"{path}: no such file"
        near = "" if path is None else did_you_mean(path)
        raise InputError(f"{found}; expected --source FILE, {_EXPECTED}.{near}")
    findings, notes = Findings(path, skip_gaps=options.skip_bad), tuple[str, ...]()
    text = read_text(path)
    (_, first), *_ = numbered_lines(text)
    table = find_table(text)
    names = Names(captions=options.caption_columns).of_columns()
    captions = names.captions_in(dict.fromkeys(table.columns))
    if first.lstrip().startswith(("{", "[")):
        fail(path, "JSON", _EXPECTED)
    if "#" in first.partition("\t")[0] and "\t" in first:
        groups = _in_tokens(path, findings)
    elif captions or options.caption_columns or "\t" in first:
        _check_columns(path, table, captions, options)
        groups = _in_table(path, table, captions, findings)
    else:
        groups, notes = _in_lines(text)
    examples = []
    for group in groups:
        for caption, place in zip(group.captions, group.places, strict=True):
            if not caption.strip():
                findings.add_gap(path, place, "empty caption; expected text")
        if kept := tuple(caption for caption in group.captions if caption.strip()):
            examples.append(Example(next(iter(group.ids.values())), None, kept))
    findings.raise_if_any()
    if not examples:
        raise InputError(f"{path}: no caption remains; expected at least one")
    return Listing(
        {"train": tuple(examples)},
        description=f"Captions of {path.name}, without images.",
        notes=(*notes, *findings.notes()),
    )


def _in_tokens(path: Path, findings: Findings) -> list[ImageCaptions]:
    file = read_file(path, findings)
    return [] if file is None else file.images


def _check_columns(
    path: Path, table: Table, captions: tuple[str, ...], options: SourceOptions
) -> None:
    images = [column for column in table.columns if column in ID_NAMES]
    if images:
        raise InputError(
            f"{path}: the table has a column of images, {images[0]!r}, but text is prepared without"
            f" any. To use them, run: jaxcap prepare folder --captions {path}. To use the captions "
            "alone, rename the column to id"
        )
    given = Names(captions=options.caption_columns).of_columns().captions
    if missing := [column for column in given if column not in captions]:
        fail(path, f"no column {missing[0]!r}", f"one of {', '.join(table.columns)}")
    if not captions:
        fail(
            path,
            f"no column of captions (of {', '.join(CAPTION_NAMES[:4])}, …) in the first line",
            _EXPECTED,
        )


def _in_table(
    path: Path, table: Table, captions: tuple[str, ...], findings: Findings
) -> list[ImageCaptions]:
    problems = Problems(path)
    groups: dict[str, ImageCaptions] = {}
    for place, row in read_table(table, problems):
        key = next((row[name] for name in LAST_ID_NAMES if row.get(name)), place)
        group = groups.setdefault(key, ImageCaptions({"id": key}, []))
        # Of several columns some may be empty: photographs differ in their number of captions.
        texts = [row[name] for name in captions if row[name]] or [""]
        group.captions += texts
        group.places += [place] * len(texts)
    findings.add_all(problems)
    return list(groups.values())


def _in_lines(text: str) -> tuple[list[ImageCaptions], tuple[str, ...]]:
    groups: list[list[tuple[int, str]]] = []
    for number, line in numbered_lines(text):
        if not groups or groups[-1][-1][0] + 1 < number:
            groups.append([])
        groups[-1].append((number, line.strip()))
    notes: tuple[str, ...] = ()
    if len(groups) == 1:
        groups = [[line] for line in groups[0]]
        notes = ("no empty line separates the captions, so each is a record of its own",)
    found = []
    for group in groups:
        places = [f"line {number}" for number, _ in group]
        captions = [line for _, line in group]
        found.append(ImageCaptions({"place": places[0]}, captions, places=places))
    return found, notes
