"""The readers of all formats, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from jaxcap.datasets.sources import (
    Listing,
    SourceOptions,
    coco,
    flickr8k,
    flickr30k,
    folder,
    karpathy,
    parquet,
    text,
    tfds,
    webdataset,
)
from jaxcap.messages import Progress, no_progress
from jaxcap.messages.errors import InputError, did_you_mean

_FILES = ("source", "captions", "images", "split_files", "split_fractions", "skip_bad")
_COLUMNS = ("split_column", "image_column", "caption_columns")
_TFDS = (
    "source", "dataset", "data_dir", "image_key", "caption_key", "id_key", "split_fractions",
    "skip_bad",
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A layout of files that a source may have.

    Attributes:
      summary: one line for the list of formats.
      read: the reader.
      takes: the fields of `SourceOptions` that the reader uses.
    """

    summary: str
    read: Callable[[SourceOptions, Progress], Listing]
    takes: tuple[str, ...]


FORMATS: Mapping[str, Layout] = {
    "flickr8k": Layout("the original release of Flickr8k", flickr8k.read, _FILES),
    "flickr30k": Layout("the original release of Flickr30k", flickr30k.read, _FILES),
    "coco": Layout("COCO's images and annotations, of 2014 or 2017", coco.read, _FILES),
    "karpathy": Layout("Karpathy's dataset_*.json with its images", karpathy.read, _FILES),
    "folder": Layout(
        "a folder of images with captions in CSV, TSV, JSON lines, COCO JSON or files beside them",
        folder.read,
        (*_FILES, *_COLUMNS),
    ),
    "webdataset": Layout(
        "WebDataset's .tar shards, also those of img2dataset",
        webdataset.read,
        ("source", "split_fractions", "skip_bad"),
    ),
    "parquet": Layout(
        "Parquet files with images in them, such as Hugging Face's",
        parquet.read,
        ("source", "split_fractions", "skip_bad", "image_column", "caption_columns"),
    ),
    "text": Layout(
        "captions without images in a token file, plain text or a table, also .gz",
        text.read,
        ("source", "caption_columns", "skip_bad"),
    ),
    "tfds": Layout("a prepared TFDS data set of any name", tfds.read, _TFDS),
}


def read(format: str, options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read a source.

    Args:
      format: a key of `FORMATS`.
      options: where the source is and how to read it.
      progress: called by readers that take a long time.

    Raises:
      InputError: an unknown format, an option that it does not take, or a faulty source; the
        message lists all problems.
    """
    if format not in FORMATS:
        known = ", ".join(FORMATS)
        raise InputError(
            f"unknown format {format!r}; expected one of {known}.{did_you_mean(format, FORMATS)}"
        )
    found, default = FORMATS[format], SourceOptions()
    given = [
        f.name for f in fields(options) if getattr(options, f.name) != getattr(default, f.name)
    ]
    if odd := [name for name in given if name not in found.takes]:
        takes = ", ".join(map(_option, found.takes))
        raise InputError(f"{format}: takes no {_option(odd[0])}; it takes {takes}")
    splits = [name for name in given if name.startswith("split_")]
    if len(splits) > 1:
        raise InputError(
            f"{format}: {' and '.join(map(_option, splits))} both define the splits; give one"
        )
    try:
        return found.read(options, progress)
    except OSError as error:
        raise InputError(f"{format}: cannot read the source: {error}") from error


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")
