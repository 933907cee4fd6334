"""Read a user's folder of images, with captions in one file or in a file beside each image.

The caption file is a table (CSV, TSV) with a header, JSON lines, COCO JSON, or any other format
that `jaxcap.caption_files.reading` knows:

    image,caption,split                      {"file_name": "a.jpg", "captions": ["…", "…"]}
    a.jpg,"a dog, asleep",train              {"file_name": "b.jpg", "captions": ["…"]}
    a.jpg,a brown dog,train

An image may have several lines, a list of captions, or several columns of captions. Without a
caption file, `a.txt`, `a.caption` or `a.json` holds the captions of `a.jpg`. Each split may have
its own file (train.csv, val.csv, test.csv), or its own folder with a file in it, as in Hugging
Face's ImageFolder (train/metadata.csv, .jsonl, or .parquet). Columns are given, or found by their
usual names.
"""

from __future__ import annotations

import itertools
import operator
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from jaxcap.caption_files.column_names import Names
from jaxcap.caption_files.reading import COCO, KARPATHY, TOKENS, ImageCaptions
from jaxcap.caption_files.sidecars import SIDECARS, sidecar_captions, sidecar_names
from jaxcap.data.image_names import IMAGE_SUFFIXES, is_hidden
from jaxcap.data.image_paths import images_below, named_left_out, walk_images
from jaxcap.datasets.sources import Listing, SourceOptions
from jaxcap.datasets.sources.assembly import Entry, assemble, entries_of, read_file
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.locations import need_file, need_folder, need_source
from jaxcap.datasets.sources.splits import DEFAULT_FRACTIONS, canonical_or_none
from jaxcap.files import read_bytes
from jaxcap.files.json_data import MAX_BYTES
from jaxcap.messages import Progress, no_progress
from jaxcap.messages.errors import InputError, counted

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".token")
_NO_CAPTIONS = re.compile(
    r"(readme|licen[sc]e)\b.*|\d+_stats\.json|(dataset_info|dataset_dict|state)\.json",
    re.IGNORECASE,
)
"""Names of files that hold no captions, such as those of img2dataset and Hugging Face."""


@dataclass(frozen=True)
class _Captions:
    """A file of captions.

    Attributes:
      path: the file.
      split: the split that its name stands for.
      folder: the folder of its images, if it is not that of the source.
    """

    path: Path
    split: str | None = None
    folder: Path | None = None


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
    missing = [file for file in files if need_file(file.path, findings) is None]
    if folder is None or missing:
        findings.fail()
    if files:
        entries = _in_files(files, folder, options, findings)
        title = " and ".join(dict.fromkeys(file.path.name for file in files))
    else:
        _refuse_columns(options, "a folder of text files", options.split_column)
        entries = _beside(source, folder, findings)
        title = "files beside them"
    found = assemble(entries, folder, options, findings)
    return Listing(
        found.splits,
        description=f"Images of the folder {folder.resolve().name}, captions of {title}.",
        notes=found.notes,
    )


def _caption_files(source: Path, options: SourceOptions) -> list[_Captions]:
    """Return the caption file that was given or is in the folder, or one file for each split.

    Raises:
      InputError: the folder has several candidates that are not named after splits.
    """
    if options.captions is not None:
        return [_Captions(options.captions)]
    lists = {path.resolve() for path in options.split_files.values()}
    there = [path for path in _candidates(source) if path.resolve() not in lists]
    if not there:
        return [
            _Captions(path, folder=folder)
            for folder in sorted([*source.glob("*/"), *source.glob("*/*/")])
            if canonical_or_none(folder.name) in DEFAULT_FRACTIONS
            for path in _only(folder, _candidates(folder))
        ]
    splits = [canonical_or_none(path.stem) for path in there]
    if len(there) > 1 and set(splits) <= set(DEFAULT_FRACTIONS) and len(set(splits)) == len(there):
        return list(map(_Captions, there, splits))
    return [_Captions(path) for path in _only(source, there)]


def _candidates(folder: Path) -> list[Path]:
    """Return the files in a folder that may hold the captions of several images, by name.

    Where most images have a sidecar, other files of its suffix belong to images that are missing.
    """
    here = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    pictures = [path for path in here if path.suffix.lower() in IMAGE_SUFFIXES]
    beside = _names_beside(pictures)
    count = Counter(path.suffix.lower() for path in here if path.name in beside)
    sidecars = {suffix for suffix in SIDECARS if 2 * count[suffix] > len(pictures)}
    return [
        path
        for path in here
        if (path.suffix.lower() in _SUFFIXES or path.name == "metadata.parquet")
        and path.is_file()
        and path.suffix.lower() not in sidecars
        and path.name not in beside
        and not _NO_CAPTIONS.fullmatch(path.name)
    ]


def _only(folder: Path, there: list[Path]) -> list[Path]:
    if len(there) < 2:
        return there
    names = ", ".join(path.name for path in there[:5])
    more = f" and {len(there) - 5} more" if len(there) > 5 else ""
    raise InputError(
        f"{folder}: {len(there)} files may hold the captions ({names}{more}). Choose one with "
        "--captions FILE, or name them after splits: train, dev (or val), test"
    )


def _in_files(
    files: Sequence[_Captions], folder: Path, options: SourceOptions, findings: Findings
) -> list[Entry]:
    names = Names(
        options.image_column, options.caption_columns, options.split_column, nameable=True
    )
    entries: list[Entry] = []
    for each in files:
        file = read_file(each.path, findings, names)
        if file is None:
            if options.captions is None:
                findings.add_note(
                    f"{each.path} seemed to hold the captions. If others do, give --captions FILE; "
                    "if none do, move it out of the folder"
                )
            continue
        if file.format in (COCO, KARPATHY, TOKENS):
            _refuse_columns(options, f"{each.path} ({file.format})")
        if each.split is not None and not options.split_column:
            for image in [*file.images, *file.bare_images]:
                image.split = each.split
        below = folder if each.folder is None or options.images else each.folder
        entries += entries_of(file, below, findings, top=folder)
    if not entries:
        findings.fail()
    known = {entry.path for entry in entries}
    images = _images(folder, findings, {each.path for each in files})
    bare = [path for path in images if path not in known]
    if bare and any(known) and not options.split_files:
        shown = ", ".join(path.relative_to(folder).as_posix() for path in bare[:3])
        more = f" and {len(bare) - 3:,} more" if len(bare) > 3 else ""
        place = files[0].path if len(files) == 1 else folder
        findings.add_gap(
            place, "", f"no captions for {counted(len(bare), 'image')} in {folder}: {shown}{more}"
        )
    return entries


def _refuse_columns(options: SourceOptions, what: str, *others: str | None) -> None:
    given = [c for c in (options.image_column, *options.caption_columns, *others) if c is not None]
    if given:
        raise InputError(
            f"the column {given[0]!r} was given, but {what} has no columns; leave the option out"
        )


def _images(folder: Path, findings: Findings, others: Set[Path] = frozenset()) -> list[Path]:
    """List the images below a folder; add a note about files left out that are not `others`."""
    left_out: list[Path] = []
    found = images_below(
        folder,
        unreadable=lambda text: findings.add_all(InputError(text)),
        left_out=left_out.append,
    )
    if left_out := [path for path in left_out if path not in others]:
        findings.add_note(named_left_out(left_out))
    return found


def _beside(source: Path, folder: Path, findings: Findings) -> list[Entry]:
    """Read images with captions in files of the same name."""
    paths = _images(folder, findings)
    if not paths:
        expected = f"expected {', '.join(IMAGE_SUFFIXES)}"
        findings.add(folder, "", f"no image in this folder; {expected}{_others(source)}")
        findings.fail()
    there = {path: _sidecars(path) for path in paths}
    if not any(there.values()):
        beside = " or ".join(paths[0].with_suffix(suffix).name for suffix in SIDECARS)
        raise InputError(
            f"{folder}: {counted(len(paths), 'image')} without captions; expected a caption file "
            f"(.csv, .tsv, .jsonl, .json), or {beside} beside {paths[0].name}. Name the file: "
            f"--captions FILE{_elsewhere(source)}"
        )
    for file in _without_image(paths):
        findings.add_gap(file, "", "no image of this name beside it")
    unread = Counter(file.suffix.lower() for files in there.values() for file in files[1:])
    for suffix, count in unread.items():
        findings.add_note(f"{suffix} is not read for {counted(count, 'image')} with another file")
    entries: list[Entry] = []
    of_file: dict[Path, str] = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if not there[path]:
            findings.add_gap(path, "", f"no {path.with_suffix(SIDECARS[0]).name} beside it")
            continue
        file = there[path][0]
        if file in of_file:
            findings.add(
                file, "", f"belongs to both {of_file[file]} and {path.name}; rename one of them"
            )
            continue
        of_file[file] = path.name
        image = ImageCaptions({"file": name}, [], place="")
        try:
            for caption, place in sidecar_captions(file, read_bytes(file, at_most=MAX_BYTES)):
                image.captions.append(caption)
                image.places.append(place)
        except InputError as error:
            findings.add_all(error)
            continue
        entries.append(Entry(file, image, name, path))
    return entries


def _names_beside(images: Iterable[Path]) -> set[str]:
    """Return the names that the sidecars of images may have."""
    known = (sidecar_names(image.name).values() for image in images)
    return {name for kinds in known for names in kinds for name in names}


def _sidecars(image: Path) -> list[Path]:
    """Return the sidecars of an image, one of each kind."""
    found = []
    for names in sidecar_names(image.name).values():
        found += list(filter(os.path.isfile, map(image.with_name, names)))[:1]
    return found


def _without_image(images: Sequence[Path]) -> Iterator[Path]:
    """Yield the sidecars in the folders of images that belong to none of them."""
    parent = operator.attrgetter("parent")
    for folder, here in itertools.groupby(sorted(images, key=parent), parent):
        known = _names_beside(here)
        for path in sorted(folder.iterdir()):
            is_sidecar = path.suffix.lower() in SIDECARS and not is_hidden(path.name)
            if is_sidecar and path.name not in known and not _NO_CAPTIONS.fullmatch(path.name):
                yield path


def _elsewhere(source: Path) -> str:
    """Name files below the source that may hold the captions."""
    suffixes = (*_SUFFIXES, ".gz")
    files = (found.path for found in walk_images(source, suffixes=suffixes))
    found = [path for path in files if not _NO_CAPTIONS.fullmatch(path.name)]
    names = f", such as {', '.join(map(str, found[:3]))}" if found else ""
    return f"{names}{_others(source)}"


def _others(source: Path) -> str:
    """Say how to read files of other kinds below the source, if there are any."""
    for suffix, format in ((".tar", "webdataset"), (".parquet", "parquet")):
        if found := next(walk_images(source, suffixes=(suffix,)), None):
            return f". To read {found.path.name}: jaxcap prepare {format} --source {source}"
    if found := next(walk_images(source, suffixes=(".arrow",)), None):
        load = f"datasets.load_from_disk('{found.path.parent}')"
        return f". {found.path.name} is an Arrow file; make Parquet of it: {load}.to_parquet(…)"
    if found := next(walk_images(source, suffixes=(".xlsx", ".xls", ".ods")), None):
        return f". {found.path} is a workbook; save it as CSV in UTF-8"
    return ""
