"""Read published data sets into a `Listing`: images with their captions, by split.

Each reader handles one layout of files. It returns a `Listing`, or raises one `InputError` that
lists every problem. Readers check that images exist but open none: they are decoded when they are
stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class ImageBytes(Protocol):
    """An image without a file of its own, such as one in another data set; picklable."""

    @property
    def name(self) -> str:
        """The name of the image in error messages."""
        ...

    def read(self) -> bytes:
        """Return the encoded image."""
        ...


@dataclass(frozen=True)
class Example:
    """One image with its captions.

    Attributes:
      image_id: unique in the data set, across splits.
      image: the image file, or another source of its bytes; None in a data set of text alone.
      captions: the original text, in the order of the source.
    """

    image_id: str
    image: Path | ImageBytes | None
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """The content of a source.

    Attributes:
      splits: the examples of each split, in the order of the source. Common names are unified:
        "train", "dev" (for val, valid, validation, development) and "test".
      description: one sentence about the data set.
      homepage: its web page, if known.
      citation: the paper to cite, if there is one.
      flippable: whether captions stay true when an image is mirrored.
      notes: messages for the user about defaults that were chosen and examples left out.
    """

    splits: Mapping[str, tuple[Example, ...]]
    description: str
    homepage: str = ""
    citation: str = ""
    flippable: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceOptions:
    """Where a source is and how to read it; `Format.takes` lists the options of each reader.

    Attributes:
      source: the folder of the release, of the images, or of a prepared TFDS data set.
      captions: the file of captions, if `source` does not hold it under its usual name.
      images: the folder that image names are relative to, if it is not in `source`.
      split_column: the column, or key of a JSON entry, that names the split of an image.
      split_files: for each split, the file that lists its images, one per line.
      split_fractions: the fraction of images in each split; they add up to 1. Images are assigned
        by a hash of their names, so adding or removing others does not move an image.
      image_column: the column, or key of a JSON entry, that names the image.
      caption_columns: the columns of the captions; several give an image several captions.
      dataset: the name of a TFDS data set in `data_dir` ("coco_captions", "coco_captions/2014").
      data_dir: the directory of prepared TFDS data sets.
      image_key: the image feature of a TFDS data set.
      caption_key: the caption feature; a path such as "captions/text" selects a nested feature.
      id_key: the feature that identifies an image.
      skip_bad: leave out missing images and images without a caption, and report them.
    """

    source: Path | None = None
    captions: Path | None = None
    images: Path | None = None
    split_column: str | None = None
    split_files: Mapping[str, Path] = field(default_factory=dict)
    split_fractions: Mapping[str, float] = field(default_factory=dict)
    image_column: str | None = None
    caption_columns: tuple[str, ...] = ()
    dataset: str | None = None
    data_dir: Path | None = None
    image_key: str | None = None
    caption_key: str | None = None
    id_key: str | None = None
    skip_bad: bool = False
