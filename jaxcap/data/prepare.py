"""Data sets by name: build one with TFDS, and read a split of it at random access."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBars

from jaxcap.data import Progress, no_progress
from jaxcap.data.flickr8k import Flickr8k
from jaxcap.data.shapes import Shapes
from jaxcap.errors import InputError, did_you_mean
from jaxcap.progress import say

DATASETS: dict[str, type[Any]] = {"flickr8k": Flickr8k, "shapes": Shapes}
_NEED_SOURCE = {"flickr8k": "the folder of the release, with Flickr8k.token.txt in it"}


def default_data_dir() -> Path:
    """Where data sets are kept unless told otherwise: `$TFDS_DATA_DIR`, or TFDS's own default."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_dataset(name: str) -> type[Any]:
    """Returns the builder class of that name.

    Raises:
      InputError: there is none.
    """
    if name not in DATASETS:
        known = ", ".join(sorted(DATASETS))
        raise InputError(
            f"there is no data set {name!r}; known are: {known}.{did_you_mean(name, DATASETS)}"
        )
    return DATASETS[name]


def prepare(
    name: str,
    *,
    source: Path | None = None,
    data_dir: Path | None = None,
    quiet: bool = False,
    progress: Progress | None = None,
) -> Any:
    """Builds the data set, unless it is there already, and returns its TFDS builder.

    It comes into being by one rename at the end: a run that fails or is killed leaves
    nothing that counts as prepared.

    Args:
      name: a key of `DATASETS`.
      source: the original files, for a data set that has any.
      data_dir: where data sets are kept; `default_data_dir()` if None.
      quiet: print nothing.
      progress: gets the progress, instead of bars on the terminal.

    Raises:
      InputError: unknown name, source missing or faulty, or no place to write.
    """
    cls = find_dataset(name)
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    console = Console(stderr=True, quiet=quiet)
    if _is_prepared(cls, data_dir):
        builder = _builder(cls, data_dir)
        say(console, f"{name} is prepared already: {builder.data_path}")
        return builder
    arguments: dict[str, Any] = {}
    if name in _NEED_SOURCE:
        if source is None:
            raise InputError(
                f"{name}: preparing it needs its original files; "
                f"give --source DIR, {_NEED_SOURCE[name]}"
            )
        arguments["source"] = Path(source)
    elif source is not None:
        raise InputError(f"{name}: takes no --source; the program makes it itself")

    with contextlib.ExitStack() as stack:
        if progress is None:
            progress = no_progress if quiet else stack.enter_context(_bars(console))
        stack.enter_context(_silent_tfds())
        try:
            builder = cls(data_dir=data_dir, progress=progress, **arguments)
            builder.download_and_prepare()
        except OSError as error:
            if not _is_prepared(cls, data_dir):  # else another process was faster: all is well
                raise InputError(f"{name}: cannot write to {data_dir}: {error}") from error
            builder = cls(data_dir=data_dir)
    counts = ", ".join(f"{s} {info.num_examples:,}" for s, info in builder.info.splits.items())
    say(console, f"{name}: prepared {counts} in {builder.data_path}")
    return builder


def load_source(name: str, split: str, data_dir: Path | None = None) -> Records:
    """Returns the records of a split, with random access.

    Args:
      name: a key of `DATASETS`.
      split: `"train"`, `"dev"`, `"test"`, or a part of one in TFDS's notation
        (`"train[:10%]"`).
      data_dir: where data sets are kept; `default_data_dir()` if None.

    Raises:
      InputError: unknown name, not prepared, or a split that is missing or empty.
    """
    cls = find_dataset(name)
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    if not _is_prepared(cls, data_dir):
        option = " --source DIR" if name in _NEED_SOURCE else ""
        raise InputError(
            f"the data set {name} is not prepared in {data_dir}; run: jaxcap prepare {name}{option}"
        )
    builder = _builder(cls, data_dir)
    splits = builder.info.splits
    there_are = ", ".join(f"{s} ({info.num_examples:,})" for s, info in splits.items()) or "none"
    try:
        count = splits[split].num_examples
    except (KeyError, ValueError) as error:
        base = split.partition("[")[0]
        raise InputError(
            f"the data set {name} has no split {split!r}; there are: {there_are}."
            f"{did_you_mean(base, splits)}"
        ) from error
    if count == 0:
        raise InputError(f"the split {split!r} of {name} is empty; there are: {there_are}")
    return Records(Path(builder.data_path), split)


class Records:
    """A split of a prepared data set: records by their index.

    A record is a dict: `image` (bytes, the file as it was), `captions` (list of str),
    `image_id` (str), and what else the data set has, texts as str. Reading is safe from
    several threads; a pickled copy opens the files anew.
    """

    def __init__(self, directory: Path, split: str) -> None:
        """Args:
        directory: folder of a prepared data set, with its version.
        split: split in TFDS's notation.

        """
        self._directory, self._split = directory, split
        self._source = tfds.builder_from_directory(directory).as_data_source(
            split=split, decoders={"image": tfds.decode.SkipDecoding()}
        )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = index.__index__()
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return _to_record(self._source[index % len(self)])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Records, (self._directory, self._split)

    def __repr__(self) -> str:
        # Without the folder: Grain compares it on resuming, perhaps on another machine.
        return f"Records({'/'.join(self._directory.parts[-2:])!r}, {self._split!r})"


def _to_record(features: dict[str, Any]) -> dict[str, Any]:
    return {
        key: bytes(value) if key == "image" else _to_text(value) for key, value in features.items()
    }


def _to_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [_to_text(item) for item in value]
    return value


def _is_prepared(cls: type[Any], data_dir: Path) -> bool:
    return (data_dir / cls.name / str(cls.VERSION) / "dataset_info.json").is_file()


def _builder(cls: type[Any], data_dir: Path) -> Any:
    with _silent_tfds():
        return cls(data_dir=data_dir)


@contextlib.contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    """A bar for each thing that is done, on a terminal; elsewhere nothing."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with ProgressBars(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield show


@contextlib.contextmanager
def _silent_tfds() -> Iterator[None]:
    """Keeps TFDS's own bars, log lines and announcements off the terminal."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
