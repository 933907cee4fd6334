"""Prepare data sets, find prepared ones by name, and read their records."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBars

from jaxcap.config.local_paths import local_path
from jaxcap.data.image_paths import Part
from jaxcap.datasets import shapes
from jaxcap.datasets.building import VERSION, Recipe, build
from jaxcap.datasets.recipes import listing_recipe
from jaxcap.datasets.records import Records
from jaxcap.datasets.sources import SourceOptions
from jaxcap.datasets.sources.record_files import ARRAY_RECORD
from jaxcap.datasets.sources.registry import FORMATS, read
from jaxcap.datasets.sources.tfds_opening import open_directory
from jaxcap.files.json_data import from_dict
from jaxcap.messages import Progress
from jaxcap.messages.errors import InputError, did_you_mean
from jaxcap.messages.progress import PlainConsole, print_line

_NAMED_BY_FORMAT = ("flickr8k", "flickr30k", "coco", "shapes")
"""Formats of a single data set, which need no --name."""

_PLAIN_SECONDS = 15.0
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")


def default_data_dir() -> Path:
    """Return `$TFDS_DATA_DIR`, or TFDS's own default.

    Raises:
      InputError: the variable holds an address, or there is no home directory.
    """
    if given := os.environ.get("TFDS_DATA_DIR"):
        return local_path(given, "TFDS_DATA_DIR")
    try:
        return local_path("~/tensorflow_datasets")
    except InputError:
        raise InputError(
            "there is no home directory to keep data sets in; give --data-dir DIR or set "
            "TFDS_DATA_DIR"
        ) from None


def formats() -> dict[str, str]:
    """Return the formats that can be prepared, each with a summary."""
    return {name: format.summary for name, format in FORMATS.items()} | {
        "shapes": "drawn scenes of one or two objects; needs no source"
    }


# ---- preparing -------------------------------------------------------------------------------


def prepare(
    format: str,
    options: SourceOptions | None = None,
    *,
    name: str | None = None,
    data_dir: Path | None = None,
    part: Part | None = None,
    join: bool = False,
    max_side: int | None = None,
    skip_bad: bool = False,
    workers: int | None = None,
    console: Console | None = None,
    progress: Progress | None = None,
) -> Prepared | None:
    """Prepare a data set from a source, or a part of one, unless it exists already.

    Args:
      format: a key of `formats()`.
      options: where the source is and how to read it.
      name: the name of the data set; may be left out for formats of a single data set.
      data_dir: the directory of all data sets; `default_data_dir()` if None.
      part: prepare this share alone, while other processes or machines prepare the others.
      join: complete the data set whose parts are all prepared.
      max_side: store larger images scaled down to this many pixels (`stored_images.to_stored`).
      skip_bad: leave out images that are missing, have no caption or cannot be decoded.
      workers: the number of processes that decode; by default one per processor.
      console: prints messages, and progress bars on a terminal; standard error if None.
      progress: called with (task, done, total) in place of progress bars.

    Returns:
      The data set; None if only a part of it was prepared.

    Raises:
      InputError: an unknown format, an invalid name, a different data set of that name, a faulty
        source, unreadable images, parts that are missing, or a directory that is not writable.
    """
    console = PlainConsole(stderr=True) if console is None else console
    options = dataclasses.replace(options or SourceOptions(), skip_bad=skip_bad)
    data_dir = default_data_dir() if data_dir is None else local_path(data_dir, "--data-dir")
    name = _check_name(format, name)
    if max_side is not None and max_side < 1:
        raise InputError(f"--max-side is {max_side}; expected at least 1 pixel")
    if part is not None and join:
        raise InputError("--join joins prepared parts; leave --part out.")
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; expected at least 1")
    with contextlib.ExitStack() as stack:
        if progress is None:
            progress = stack.enter_context(_bars(console))
        if format == "shapes":
            recipe = _drawn(options, name, max_side)
        else:
            listing = read(format, options, progress)
            for note in listing.notes:
                print_line(console, f"{name}: {note}")
            recipe = listing_recipe(listing, name=name, format=format, max_side=max_side)
        there = _look(name, data_dir)
        if there is None:
            folder = build(
                recipe,
                data_dir,
                part=part,
                join=join,
                workers=workers,
                skip_bad=skip_bad,
                progress=progress,
                report=lambda text: print_line(console, text),
            )
            if folder.name != VERSION:
                print_line(
                    console,
                    f"{name}: a part is prepared in {folder}. When all are, run this command with "
                    "--join in place of --part.",
                )
                return None
    prepared = find_dataset(name, data_dir)
    _check_same(prepared, recipe)
    if there is None:
        print_line(console, f"{name}: prepared {prepared.counts} in {prepared.path}")
    else:
        print_line(console, f"{name} is prepared already: {prepared.path}")
    return prepared


def _drawn(options: SourceOptions, name: str, max_side: int | None) -> Recipe:
    default = SourceOptions(skip_bad=options.skip_bad)
    given = [
        f.name
        for f in dataclasses.fields(options)
        if getattr(options, f.name) != getattr(default, f.name)
    ]
    if max_side is not None:
        given.append("max_side")
    if given:
        option = given[0].replace("_", "-")
        raise InputError(
            f"shapes takes no --{option}, because its images are drawn; leave the option out"
        )
    return dataclasses.replace(shapes.recipe(), name=name)


def _check_name(format: str, name: str | None) -> str:
    known = formats()
    if format not in known:
        raise InputError(
            f"unknown format {format!r}.{did_you_mean(format, known)} Expected one of:",
            *(f"  {name}: {summary}" for name, summary in known.items()),
        )
    if name is None:
        if format not in _NAMED_BY_FORMAT:
            raise InputError(
                f"{format}: the data set has no name. Give it one with --name NAME, and use it as "
                "data.name in a configuration"
            )
        return format
    if not _NAME.fullmatch(name):
        raise InputError(
            f"--name is {name[:60]!r}; expected at most 100 lower-case letters, digits and '_', "
            "starting with a letter"
        )
    return name


def _check_same(prepared: Prepared, recipe: Recipe) -> None:
    """Check that the prepared data set is the requested one, not another of the same name."""
    there = prepared.made_from
    asked = recipe.metadata["made_from"]
    different = [key for key in asked if key in there and there[key] != asked[key]]
    if not different:
        return
    says = {
        "format": f"was prepared from the format {there.get('format')}, not {asked.get('format')}",
        "max_side": f"was prepared {_with(there.get('max_side'))}, not "
        f"{_with(asked.get('max_side'))}",
        "captions": "holds other images, captions or splits than the source does now",
    }
    raise InputError(
        f"{prepared.path}: a data set of this name exists, but it "
        f"{says.get(different[0], 'was prepared with other options')}. Choose another --name, or "
        "remove that folder to prepare it again"
    )


def _with(max_side: int | None) -> str:
    return "without --max-side" if max_side is None else f"with --max-side {max_side}"


# ---- finding and reading ---------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A prepared data set.

    Attributes:
      name: its name.
      path: its folder, including the version.
      splits: the number of images in each split.
      text_alone: whether it has captions without images.
      flippable: whether captions stay true when an image is mirrored.
      made_from: how it was prepared; empty for data sets that TFDS's own builders wrote.
    """

    name: str
    path: Path
    splits: Mapping[str, int]
    text_alone: bool
    flippable: bool
    made_from: Mapping[str, Any]

    @property
    def counts(self) -> str:
        """The splits as text: `"train 6,000, dev 1,000"`."""
        counts = ", ".join(f"{split} {count:,}" for split, count in self.splits.items())
        return f"{counts} (text alone)" if self.text_alone else counts


@dataclass(frozen=True)
class _Metadata:
    flippable: bool = True
    made_from: dict[str, Any] = dataclasses.field(default_factory=dict)


def find_dataset(name: str, data_dir: Path | None = None) -> Prepared:
    """Find a prepared data set by name.

    Raises:
      InputError: it is not in `data_dir`, or it cannot be read.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    prepared = _look(name, data_dir)
    if prepared is not None:
        return prepared
    there = list_prepared(data_dir)
    known = formats()
    if name in known:
        option = "" if name == "shapes" else " --source DIR"
        name_option = "" if name in _NAMED_BY_FORMAT else " --name NAME"
        raise InputError(
            f"the data set {name} is not prepared in {data_dir}. Run: jaxcap prepare "
            f"{name}{option}{name_option}"
        )
    raise InputError(
        f"no data set {name!r} in {data_dir}; found {', '.join(there) or 'none'}."
        f"{did_you_mean(name, [*there, *known])} Prepare it: jaxcap prepare FORMAT --name {name}, "
        f"where FORMAT is one of {', '.join(known)}"
    )


def list_prepared(data_dir: Path) -> list[str]:
    """Return the names of the data sets in a directory that jaxcap can train on."""
    names = []
    for folder in sorted(Path(data_dir).glob(f"*/{VERSION}/dataset_info.json")):
        with contextlib.suppress(InputError):
            if _look(folder.parent.parent.name, data_dir):
                names.append(folder.parent.parent.name)
    return names


def _look(name: str, data_dir: Path) -> Prepared | None:
    """Return the data set, or None if it does not exist; raise if something else is there."""
    if not _NAME.fullmatch(name):
        return None
    path = data_dir / name / VERSION
    if not path.exists():
        others = sorted(p.name for p in path.parent.glob("*") if tfds.core.Version.is_valid(p.name))
        if others:
            raise InputError(
                f"{path.parent}: holds version {', '.join(others)} of {name}, which jaxcap cannot "
                f"read; expected version {VERSION}. Choose another --name or --data-dir, or move "
                "that folder"
            )
        return None
    builder = open_directory(path)
    _check_format(path, builder.info.file_format)
    _check_features(path, builder.info.features)
    # Other builders of TFDS may have other entries.
    known = {field.name for field in dataclasses.fields(_Metadata)}
    found = {name: value for name, value in builder.info.metadata.items() if name in known}
    metadata = from_dict(_Metadata, found, where=f"{path / 'metadata.json'}")
    return Prepared(
        name=name,
        path=path,
        splits={split: info.num_examples for split, info in builder.info.splits.items()},
        text_alone="image" not in builder.info.features,
        flippable=metadata.flippable,
        made_from=metadata.made_from,
    )


def _check_format(path: Path, file_format: Any) -> None:
    """Accept only array_record: TFDS reads a Parquet file as a whole, of any size."""
    found = str(getattr(file_format, "value", file_format))
    if found != ARRAY_RECORD:
        raise InputError(
            f"{path}: the files of this TFDS data set are {found}; expected {ARRAY_RECORD}. "
            f"Convert TFRecord: jaxcap prepare tfds --source {path} --name NAME"
        )


def _check_features(path: Path, features: Any) -> None:
    """Accept only texts and an image: TFDS decodes other kinds, some with external programs."""
    kinds = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    missing = sorted({"image", "captions", "image_id"} - set(kinds))
    found = f"has no feature {', '.join(missing)}" if missing not in ([], ["image"]) else ""
    for name, kind in kinds.items():
        value = kind.feature if isinstance(kind, tfds.features.Sequence) else kind
        expected = tfds.features.Image if name == "image" else tfds.features.Text
        if not found and not isinstance(value, expected):
            found = f"has the feature {name!r} of kind {type(value).__name__}"
    if found:
        raise InputError(
            f"{path}: this TFDS data set {found}; expected an image 'image', and texts 'captions' "
            f"and 'image_id'. Convert it: jaxcap prepare tfds --source {path} --name NAME"
        )


def load_source(
    name: str, split: str, data_dir: Path | None = None, *, text_too: bool = False
) -> Records:
    """Return the records of a split, with random access.

    Args:
      name: the name of a prepared data set.
      split: the name of a split, or a part of one in TFDS's notation (`"train[:10%]"`).
      data_dir: the directory of all data sets; `default_data_dir()` if None.
      text_too: accept a data set of captions without images.

    Raises:
      InputError: the data set is not prepared, the split is missing or empty, or it has no images.
    """
    prepared = find_dataset(name, data_dir)
    if prepared.text_alone and not text_too:
        raise InputError(
            f"the data set {name} holds captions without images, so nothing can be captioned; "
            "name one with images, and train on this one with data.mixed_with"
        )
    splits = open_directory(prepared.path).info.splits
    there_are = ", ".join(f"{s} ({count:,})" for s, count in prepared.splits.items()) or "none"
    try:
        count = splits[split].num_examples
    except (KeyError, ValueError) as error:
        base = split.partition("[")[0]
        raise InputError(
            f"the data set {name} has no split {split!r}; expected one of {there_are}."
            f"{did_you_mean(base, splits)} To draw splits, prepare it under another "
            "--name with --split-fractions train 0.8 dev 0.1 test 0.1"
        ) from error
    if count == 0:
        raise InputError(f"the split {split!r} of {name} is empty; expected one of {there_are}")
    return Records(prepared.path, split)


@contextlib.contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    """Show a progress bar per task on a terminal, and an occasional line elsewhere."""
    if not console.is_terminal:
        said = time.monotonic()

        def tell(what: str, done: int, total: int) -> None:
            nonlocal said
            if time.monotonic() - said >= _PLAIN_SECONDS:
                said = time.monotonic()
                print_line(console, f"{what} {done:,} of {total:,}")

        yield tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with ProgressBars(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield show
