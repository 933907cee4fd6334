"""Read a user's folder of images, with captions in one file or in a text file beside each image.

The caption file is a table (CSV, TSV) with a header, JSON lines, COCO JSON, or any other format
that `jaxcap.caption_files.reading` knows:

    image,caption,split                      {"file_name": "a.jpg", "captions": ["…", "…"]}
    a.jpg,"a dog, asleep",train              {"file_name": "b.jpg", "captions": ["…"]}
    a.jpg,a brown dog,train

An image may have several lines, a list of captions, or several columns of captions. Without a
caption file, `a.txt` holds the captions of `a.jpg`, one per line. Each split may have its own file
(train.csv, val.csv, test.csv). Columns are given, or found by their usual names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from jaxcap.caption_files.column_names import Names
from jaxcap.caption_files.reading import COCO, KARPATHY, TOKENS, ImageCaptions
from jaxcap.caption_files.text_files import numbered_lines, read_text
from jaxcap.data.image_paths import IMAGE_SUFFIXES, images_below
from jaxcap.datasets import Progress, no_progress
from jaxcap.datasets.sources import Listing, SourceOptions
from jaxcap.datasets.sources.assembly import Entry, assemble, entries_of, read_file
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.locations import need_file, need_folder, need_source
from jaxcap.datasets.sources.splits import DEFAULT_FRACTIONS, canonical_or_none
from jaxcap.errors import InputError

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".token")


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read the images of a folder and its subfolders, in the order of the captions.

    Raises:
      InputError: lists all problems of the source.
    """
    if options.source is None and options.captions is not None:
        options = replace(options, source=options.captions.parent)
    source = need_source(options, "the folder of the images")
    findings = Findings(source, skip_gaps=options.skip_bad)
    folder = need_folder(options.images or source, findings)
    files = _caption_files(source, options)
    missing = [path for path in files if need_file(path, findings) is None]
    if folder is None or missing:
        findings.fail()
    if files:
        entries = _in_files(files, folder, options, findings)
        title = " and ".join(path.name for path in files)
    else:
        _refuse_columns(options, "a folder of text files", options.split_column)
        entries = _beside(folder, findings)
        title = "text files beside them"
    found = assemble(entries, folder, options, findings)
    return Listing(
        found.splits,
        description=f"Images of the folder {folder.resolve().name}, captions of {title}.",
        notes=found.notes,
    )


def _caption_files(source: Path, options: SourceOptions) -> dict[Path, str | None]:
    """Return the caption file that was given or is in the folder, or one file for each split.

    Raises:
      InputError: the folder has several candidates that are not named after splits.
    """
    if options.captions is not None:
        return {options.captions: None}
    here = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    images = {path.stem for path in here if path.suffix.lower() in IMAGE_SUFFIXES}
    lists = {path.resolve() for path in options.split_files.values()}
    there = [
        path
        for path in here
        if path.suffix.lower() in _SUFFIXES
        and path.is_file()
        and path.resolve() not in lists
        and not (path.suffix.lower() == ".txt" and path.stem in images)
        and path.stem.lower() not in ("readme", "license", "licence")
    ]
    if len(there) < 2:
        return dict.fromkeys(there)
    splits = {path: canonical_or_none(path.stem) for path in there}
    if set(splits.values()) <= set(DEFAULT_FRACTIONS) and len(set(splits.values())) == len(there):
        return splits
    names = ", ".join(path.name for path in there[:5])
    more = f" and {len(there) - 5} more" if len(there) > 5 else ""
    raise InputError(
        f"{source}: {len(there)} files may hold the captions ({names}{more}). Choose one with "
        "--captions FILE, or name them after splits: train, dev (or val), test"
    )


def _in_files(
    files: Mapping[Path, str | None], folder: Path, options: SourceOptions, findings: Findings
) -> list[Entry]:
    names = Names(options.image_column, options.caption_columns, options.split_column)
    entries: list[Entry] = []
    for path, split in files.items():
        file = read_file(path, findings, names)
        if file is None:
            continue
        if file.format in (COCO, KARPATHY, TOKENS):
            _refuse_columns(options, f"{path} ({file.format})")
        if split is not None and not options.split_column:
            for image in [*file.images, *file.bare_images]:
                image.split = split
        entries += entries_of(file, folder, short_names=False)
    if not entries:
        findings.fail()
    known = {entry.path for entry in entries}
    if any(known) and not options.split_files:
        bare = [path for path in images_below(folder) if path not in known]
        if bare:
            shown = ", ".join(path.relative_to(folder).as_posix() for path in bare[:3])
            more = f" and {len(bare) - 3:,} more" if len(bare) > 3 else ""
            count = "1 image" if len(bare) == 1 else f"{len(bare):,} images"
            place = next(iter(files)) if len(files) == 1 else folder
            findings.add_gap(place, "", f"no captions for {count} in {folder}: {shown}{more}")
    return entries


def _refuse_columns(options: SourceOptions, what: str, *others: str | None) -> None:
    given = [c for c in (options.image_column, *options.caption_columns, *others) if c is not None]
    if given:
        raise InputError(
            f"the column {given[0]!r} was given, but {what} has no columns; leave the option out"
        )


def _beside(folder: Path, findings: Findings) -> list[Entry]:
    """Read images with captions in text files of the same name."""
    paths = images_below(folder)
    if not paths:
        raise InputError(f"{folder}: no image in this folder; expected {', '.join(IMAGE_SUFFIXES)}")
    texts = {path.with_suffix(".txt") for path in paths}
    if not any(text.is_file() for text in texts):
        raise InputError(
            f"{folder}: {len(paths):,} images without captions; expected a caption file (.csv, "
            f".tsv, .jsonl, .json), or {paths[0].with_suffix('.txt').name} beside {paths[0].name}. "
            "Name the file: --captions FILE"
        )
    entries: list[Entry] = []
    of_text: dict[Path, str] = {}
    for path in paths:
        text, name = path.with_suffix(".txt"), path.relative_to(folder).as_posix()
        if text in of_text:
            findings.add(
                text, "", f"belongs to both {of_text[text]} and {path.name}; rename one of them"
            )
            continue
        of_text[text] = path.name
        image = ImageCaptions({"file": name}, [], place="")
        if not text.is_file():
            findings.add_gap(path, "", f"no {text.name} beside it")
            continue
        try:
            content = read_text(text) if text.read_bytes().strip() else ""
            for number, line in numbered_lines(content):
                image.captions.append(line.strip())
                image.places.append(f"line {number}")
        except InputError as error:
            findings.add_all(error)
            continue
        entries.append(Entry(text, image, name, path))
    return entries
