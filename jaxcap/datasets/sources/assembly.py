"""Assemble splits of examples from caption files, and collect every problem on the way.

Every reader of files ends here, with the images as its files name them and the folder that holds
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxcap.caption_files.column_names import Names
from jaxcap.caption_files.image_lookup import file_in, locate
from jaxcap.caption_files.image_matching import match
from jaxcap.caption_files.reading import (
    COCO,
    KARPATHY,
    CaptionFile,
    ImageCaptions,
    read_captions,
)
from jaxcap.caption_files.text_files import Problems, numbered_lines, read_text, shown
from jaxcap.datasets.sources import Example, SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.splits import (
    DEFAULT_FRACTIONS,
    canonical,
    canonical_or_none,
    check_fractions,
    draw,
    in_order,
)
from jaxcap.messages.errors import InputError, counted, one_line


@dataclass(frozen=True)
class Entry:
    """An image that a caption file names.

    Attributes:
      file: the caption file.
      image: the names and captions that it gives.
      name: a unique name; the one in the caption file if the image is missing.
      path: the image file, if it exists.
      reason: why there is no file, as `Located.reason` says it.
    """

    file: Path
    image: ImageCaptions
    name: str
    path: Path | None
    reason: str = ""


@dataclass(frozen=True)
class Assembled:
    """Splits of examples, with notes about defaults that were chosen and examples left out."""

    splits: Mapping[str, tuple[Example, ...]]
    notes: tuple[str, ...]


def read_file(path: Path, findings: Findings, names: Names | None = None) -> CaptionFile | None:
    """Read a caption file; return None if it cannot be read."""
    problems = Problems(path)
    try:
        return read_captions(path, names, problems)
    except InputError as error:
        findings.add_all(error)
        return None
    finally:
        findings.add_all(problems)


def entries_of(
    file: CaptionFile,
    folder: Path,
    findings: Findings,
    *,
    short_names: bool = False,
    top: Path | None = None,
) -> list[Entry]:
    """Locate the images of a caption file, with and without captions.

    Args:
      file: the caption file.
      folder: the folder of the images.
      findings: receives a note if names are not simply paths below the folder.
      short_names: name images by their file names, if those are unique, instead of by their paths.
      top: the folder that these paths are relative to, if not `folder`.
    """
    images = [*file.images, *file.bare_images]
    found = locate(images, folder)
    if found.rule:
        findings.add_note(f"{file.path}: matched names with files by the rule {found.rule}")
    names = [_name(i, p, top or folder) for i, p in zip(images, found.paths, strict=True)]
    short = [name.rsplit("/", 1)[-1] for name in names]
    if short_names and len(set(short)) == len(set(names)):
        names = short
    entries = [
        Entry(file.path, image, name, path, found.reason(i))
        for i, (image, name, path) in enumerate(zip(images, names, found.paths, strict=True))
    ]
    # These have one entry for each image, so two entries of one image are a mistake.
    return entries if file.format in (COCO, KARPATHY) else _join(entries, findings)


def _join(entries: Sequence[Entry], findings: Findings) -> list[Entry]:
    """Join the captions of names that stand for one image, such as A.jpg and a.jpg."""
    first: dict[tuple[Path | str, str | None], Entry] = {}
    joined: list[str] = []
    for entry in entries:
        kept = first.setdefault((entry.path or entry.name, entry.image.split), entry)
        if kept is not entry:
            kept.image.captions += entry.image.captions
            kept.image.places += entry.image.places
            names = (shown(next(iter(each.image.ids.values()))) for each in (kept, entry))
            joined.append(" and ".join(names))
    if joined:
        more = f", and {len(joined) - 3:,} more pairs" if len(joined) > 3 else ""
        text = f"joined the captions of names that are one image: {'; '.join(joined[:3])}{more}"
        findings.add_note(f"{entries[0].file}: {text}")
    return list(first.values())


def _name(image: ImageCaptions, path: Path | None, folder: Path) -> str:
    if path is not None:
        return path.relative_to(folder).as_posix()
    ids = list(image.ids.values())
    return next((text for text in ids if not text.isdecimal()), ids[0])


def assemble(
    entries: Sequence[Entry], folder: Path, options: SourceOptions, findings: Findings
) -> Assembled:
    """Assign images to splits, and check the images of every split.

    The first of these decides: lists that the user gave, fractions that the user gave, the caption
    file, the names of the folders. Without any of them, images are drawn 80 : 10 : 10.

    Raises:
      InputError: lists everything in `findings`, including earlier problems.
    """
    chosen, notes = _split(entries, folder, options, findings)
    if entries and not any(entry.path for entry in entries):
        name = shown(entries[0].name)
        findings.add(
            entries[0].file,
            "",
            f"of its {counted(len(entries), 'image')}, none is in {folder}; the first is {name}"
            f"{entries[0].reason}. Name the folder that holds them: --images DIR",
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
                where = "" if other == split else f" in the split {other}, this one in {split}"
                text = f"{entry.name} repeats the image of {place}{where}; expected it once"
                findings.add(entry.file, entry.image.place, text)
            seen[entry.name] = split, entry
            if (example := _example(entry, folder, findings)) is not None:
                kept.append(example)
        splits[split] = tuple(kept)
    findings.raise_if_any()
    for split in [name for name, examples in splits.items() if not examples]:
        del splits[split]
        notes.append(one_line(f"left out the split {split}, which would be empty"))
    if not splits:
        raise InputError(f"{folder}: no image with a caption remains; expected at least one")
    return Assembled(splits, (*notes, *findings.notes()))


def _place(entry: Entry) -> str:
    return f"{entry.file}, {entry.image.place}" if entry.image.place else str(entry.file)


def _example(entry: Entry, folder: Path, findings: Findings) -> Example | None:
    image, place = entry.image, entry.image.place
    if entry.path is None:
        findings.add_gap(
            entry.file, place, f"no image {shown(entry.name)} in {folder}{entry.reason}"
        )
        return None
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        findings.add(entry.file, place, f"the name {entry.name!a} is not UTF-8; rename the image")
        return None
    places = image.places or [place] * len(image.captions)
    for caption, where in zip(image.captions, places, strict=True):
        if not caption.isascii() and any("\ud800" <= c <= "\udfff" for c in caption):
            findings.add(entry.file, where, f"the caption {caption!a} contains half a character")
        if not caption.strip():
            findings.add_gap(entry.file, where, f"empty caption of {entry.name}; expected text")
    captions = tuple(caption for caption in image.captions if caption.strip())
    if not image.captions:
        findings.add_gap(entry.file, place, f"{entry.name} has no caption; expected at least one")
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
    folders = [_split_folder(entry.name) for entry in entries]
    if all(folders) and len(known := set(folders)) > 1:
        named = [
            replace(entry, image=replace(entry.image, split=folder))
            for entry, folder in zip(entries, folders, strict=True)
        ]
        return _by_file(named, findings), [f"split by folders: {', '.join(sorted(known))}"]
    shares = ", ".join(f"{share:.0%} {name}" for name, share in DEFAULT_FRACTIONS.items())
    note = f"no split was given, so images are assigned by a hash of their names: {shares}"
    return _drawn(entries, DEFAULT_FRACTIONS), [note]


def _split_folder(name: str) -> str:
    """Return the first folder in a path that is named after a split, or ""."""
    folders = name.split("/")[:-1]
    return next((each for each in folders if canonical_or_none(each) in DEFAULT_FRACTIONS), "")


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
                f"{entry.name} has no split; expected one for each image",
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
    """Take the images that the lists name, in their order; others are left out."""
    listed: dict[str, tuple[str, Path, int]] = {}  # name: split, file and line
    chosen: dict[str, list[Entry]] = {}
    for given, path in files.items():
        chosen.setdefault(split := canonical(given), [])
        for number, name in _lines(path, findings):
            if name in listed:
                _, other, line = listed[name]
                place = f"{other}, line {line}"
                findings.add(path, f"line {number}", f"{name} is already listed in {place}")
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
            if entry.path is None:  # blame the line of the list
                image = replace(entry.image, place=f"line {number}")
                entry = replace(entry, file=path, image=image)
            chosen[split].append(entry)
        elif file_in(folder, name):
            findings.add_gap(path, f"line {number}", f"no caption of {name} in {captions}")
        else:
            findings.add_gap(path, f"line {number}", f"no image {name} in {folder}")
    rest = len(entries) - len(pairs)
    left = f"{rest:,} of {len(entries):,} images with captions are not in any list"
    notes = [left] if rest else []
    return chosen, notes


def _lines(path: Path, findings: Findings) -> Iterable[tuple[int, str]]:
    try:
        return [(number, line.strip()) for number, line in numbered_lines(read_text(path))]
    except InputError as error:
        findings.add_all(error)
        return []
