"""From what caption files say to splits of examples, with all that is wrong on the way.

Every reader of files ends here: it brings the images as its files name them, and says which folder
they are in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxcap.caption_files.column_names import Names
from jaxcap.caption_files.matching import match
from jaxcap.caption_files.reading import CaptionFile, ImageCaptions, read_captions
from jaxcap.caption_files.text_files import Problems, numbered_lines, read_text, shown
from jaxcap.datasets.sources import Example, SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.image_lookup import file_in, locate
from jaxcap.datasets.sources.splits import (
    DEFAULT_FRACTIONS,
    canonical,
    canonical_or_none,
    check_fractions,
    draw,
    in_order,
)
from jaxcap.errors import InputError


@dataclass(frozen=True)
class Entry:
    """An image as a caption file names it.

    Attributes:
      file: the caption file.
      image: what it says.
      name: the image's own, that no other has; what the file calls it where there is no image.
      path: the image, if it is there.
    """

    file: Path
    image: ImageCaptions
    name: str
    path: Path | None


@dataclass(frozen=True)
class Assembled:
    """Splits of examples, and what was decided unasked or left out."""

    splits: Mapping[str, tuple[Example, ...]]
    notes: tuple[str, ...]


def read_file(path: Path, findings: Findings, names: Names | None = None) -> CaptionFile | None:
    """Reads a caption file; None if nothing can be made of it."""
    problems = Problems(path)
    try:
        return read_captions(path, names, problems)
    except InputError as error:
        findings.add_all(error)
        return None
    finally:
        findings.add_all(problems)


def entries_of(file: CaptionFile, folder: Path, *, short_names: bool) -> list[Entry]:
    """The images of a file, with and without captions, and where they are.

    Args:
      short_names: images are told apart by their file names, where those differ, not by their
        paths below the folder.
    """
    images = [*file.images, *file.bare_images]
    paths = locate(images, folder)
    names = [_name(i, p, folder) for i, p in zip(images, paths, strict=True)]
    short = [name.rsplit("/", 1)[-1] for name in names]
    if short_names and len(set(short)) == len(set(names)):
        names = short
    return [Entry(file.path, *each) for each in zip(images, names, paths, strict=True)]


def _name(image: ImageCaptions, path: Path | None, folder: Path) -> str:
    if path is not None:
        return path.relative_to(folder).as_posix()
    ids = list(image.ids.values())
    return next((text for text in ids if not text.isdecimal()), ids[0])


def assemble(
    entries: Sequence[Entry], folder: Path, options: SourceOptions, findings: Findings
) -> Assembled:
    """Splits the images and checks those that are in a split.

    The user's word counts first: lists, then shares; then what the caption file says, then the
    names of folders, and if there is nothing of these, images are drawn 80 : 10 : 10.

    Raises:
      InputError: whatever `findings` has gathered until then and here.
    """
    chosen, notes = _split(entries, folder, options, findings)
    if entries and not any(entry.path for entry in entries):
        name = shown(entries[0].name)
        findings.add(
            entries[0].file,
            "",
            f"none of its {len(entries):,} images is in {folder}; the first is {name}. "
            "Name the folder they are in: --images DIR",
        )
        findings.fail()
    splits: dict[str, tuple[Example, ...]] = {}
    seen: dict[str, tuple[str, Entry]] = {}
    for split in in_order(chosen):
        kept = []
        for entry in chosen[split]:
            if entry.name in seen:
                other, first = seen[entry.name]
                place = first.image.place if first.file == entry.file else _place(first)
                where = "" if other == split else f"; that is in the split {other}, this in {split}"
                text = f"{entry.name} is that of {place}, too{where}"
                findings.add(entry.file, entry.image.place, text)
            seen[entry.name] = split, entry
            if (example := _example(entry, folder, findings)) is not None:
                kept.append(example)
        splits[split] = tuple(kept)
    findings.raise_if_any()
    for split in [name for name, examples in splits.items() if not examples]:
        del splits[split]
        notes.append(f"the split {split} would be empty and is left out")
    if not splits:
        raise InputError(f"{folder}: no image with a caption is left; expected one or more")
    return Assembled(splits, (*notes, *findings.notes()))


def _place(entry: Entry) -> str:
    return f"{entry.file}, {entry.image.place}" if entry.image.place else str(entry.file)


def _example(entry: Entry, folder: Path, findings: Findings) -> Example | None:
    image, place = entry.image, entry.image.place
    if entry.path is None:
        findings.add_gap(entry.file, place, f"there is no image {shown(entry.name)} in {folder}")
        return None
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        findings.add(entry.file, place, f"the name {entry.name!a} is not UTF-8; rename the image")
        return None
    places = image.places or [place] * len(image.captions)
    for caption, where in zip(image.captions, places, strict=True):
        if not caption.isascii() and any("\ud800" <= c <= "\udfff" for c in caption):
            findings.add(entry.file, where, f"half a character in the caption {caption!a}")
        if not caption.strip():
            findings.add_gap(entry.file, where, f"an empty caption of {entry.name}; expected text")
    captions = tuple(caption for caption in image.captions if caption.strip())
    if not image.captions:
        findings.add_gap(entry.file, place, f"{entry.name} has no caption; expected one or more")
    return Example(entry.name, entry.path, captions) if captions else None


def _split(
    entries: Sequence[Entry], folder: Path, options: SourceOptions, findings: Findings
) -> tuple[dict[str, list[Entry]], list[str]]:
    if options.split_files:
        return _by_lists(entries, folder, options.split_files, findings)
    if options.split_fractions:
        return _drawn(entries, check_fractions(options.split_fractions)), []
    if options.split_column or any(entry.image.split for entry in entries):
        return _by_file(entries, findings), []
    tops = {entry.name.partition("/")[0] for entry in entries if "/" in entry.name}
    known = {top for top in tops if canonical_or_none(top) in DEFAULT_FRACTIONS}
    if len(known) > 1 and all(entry.name.partition("/")[0] in known for entry in entries):
        named = [
            replace(e, image=replace(e.image, split=e.name.partition("/")[0])) for e in entries
        ]
        return _by_file(named, findings), [f"split by folders: {', '.join(sorted(known))}"]
    shares = ", ".join(f"{share:.0%} {name}" for name, share in DEFAULT_FRACTIONS.items())
    note = f"no split was given, so one is drawn by a hash of each image's name: {shares}"
    return _drawn(entries, DEFAULT_FRACTIONS), [note]


def _drawn(entries: Sequence[Entry], fractions: Mapping[str, float]) -> dict[str, list[Entry]]:
    chosen: dict[str, list[Entry]] = {name: [] for name in fractions}
    for entry in entries:
        chosen[draw(entry.name, fractions)].append(entry)
    return chosen


def _by_file(entries: Sequence[Entry], findings: Findings) -> dict[str, list[Entry]]:
    chosen: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.image.split is None:
            findings.add(
                entry.file,
                entry.image.place,
                f"{entry.name} is in no split; expected one of each image",
            )
            continue
        try:
            chosen.setdefault(canonical(entry.image.split), []).append(entry)
        except InputError as error:
            findings.add(entry.file, entry.image.place, f"{entry.name}: {error}")
    return chosen


def _by_lists(
    entries: Sequence[Entry], folder: Path, files: Mapping[str, Path], findings: Findings
) -> tuple[dict[str, list[Entry]], list[str]]:
    """The images that lists name, in their order; the others are left out."""
    listed: dict[str, tuple[str, Path, int]] = {}  # name to split, file and line
    chosen: dict[str, list[Entry]] = {}
    for given, path in files.items():
        chosen.setdefault(split := canonical(given), [])
        for number, name in _lines(path, findings):
            if name in listed:
                _, other, line = listed[name]
                place = f"{other}, line {line}"
                findings.add(path, f"line {number}", f"{name} is listed already in {place}")
            else:
                listed[name] = split, path, number
    known = [
        ImageCaptions({"name": entry.name} | entry.image.ids, []) for entry in entries
    ]  # fmt: skip
    wanted = [ImageCaptions({"line": name}, []) for name in listed]
    pairs: dict[int, int] = {}
    if known and wanted:
        try:
            pairs = match(wanted, known, paths=(next(iter(files.values())), entries[0].file)).pairs
        except InputError as error:
            findings.add_all(error)
            return chosen, []
    captions = ", ".join(dict.fromkeys(entry.file.name for entry in entries))
    for index, (name, (split, path, number)) in enumerate(listed.items()):
        if index in pairs:
            entry = entries[pairs[index]]
            if entry.path is None:  # then it is the list's line that is wrong
                image = replace(entry.image, place=f"line {number}")
                entry = replace(entry, file=path, image=image)
            chosen[split].append(entry)
        elif file_in(folder, name):
            findings.add_gap(path, f"line {number}", f"{name} has no caption in {captions}")
        else:
            findings.add_gap(path, f"line {number}", f"there is no image {name} in {folder}")
    rest = len(entries) - len(pairs)
    left = f"{rest:,} of {len(entries):,} images with captions are in none of the lists"
    notes = [left] if rest else []
    return chosen, notes


def _lines(path: Path, findings: Findings) -> Iterable[tuple[int, str]]:
    try:
        return [(number, line.strip()) for number, line in numbered_lines(read_text(path))]
    except InputError as error:
        findings.add_all(error)
        return []
