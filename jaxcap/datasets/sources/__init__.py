"""What is to be prepared: images with their captions, by split, as files on disk tell it.

Each reader of this package turns one published layout into the same `Listing`, or raises one
`InputError` that names every problem it found. It reads captions and looks whether the images are
there; it opens no image: that they can be decoded is found out when they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class ImageBytes(Protocol):
    """An image that lies elsewhere than in a file of its own, such as in another data set.

    It is pickled on its way to another process.
    """

    @property
    def name(self) -> str:
        """What error messages call it."""
        ...

    def read(self) -> bytes:
        """The encoded image."""
        ...


@dataclass(frozen=True)
class Example:
    """One image with its captions.

    Attributes:
      image_id: tells the image from all others of the data set, in any split.
      image: where its bytes are.
      captions: as their authors wrote them, in the order of the source.
    """

    image_id: str
    image: Path | ImageBytes
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """All that a source holds.

    Attributes:
      splits: the examples of each split, in the order of the source. Usual names of splits are
        made one: "train", "dev" (of val, valid, validation, development) and "test".
      description: a sentence that says what this is.
      homepage: where it comes from, if that is known.
      citation: the paper to cite, if there is one.
      flippable: whether a mirrored image keeps its captions.
      notes: what was decided without being asked for, or left out: sentences to be shown.
    """

    splits: Mapping[str, tuple[Example, ...]]
    description: str
    homepage: str = ""
    citation: str = ""
    flippable: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceOptions:
    """Where a source is and how it is to be read; a reader says which of these it takes.

    Attributes:
      source: the folder of the release, of the images, or of a prepared TFDS data set.
      captions: the file of captions, where it is not found in `source` by its name.
      images: the folder that image names are relative to, where it is not found in `source`.
      split_column: column, or key of a JSON entry, that names the split of an image.
      split_files: split to the file that lists its images, a name a line.
      split_fractions: split to its share of the images, drawn by a hash of each image's name: an
        image stays where it is whatever images come or go. Shares add up to 1.
      image_column: column, or key of a JSON entry, that names the image.
      caption_columns: those that hold captions; several give an image several captions.
      dataset: name of a TFDS data set in `data_dir` ("coco_captions", "coco_captions/2014").
      data_dir: where prepared TFDS data sets lie.
      image_key: feature that holds the image, of a TFDS data set.
      caption_key: feature that holds the caption or captions; "captions/text" goes into a feature.
      id_key: feature that tells an image from all others.
      skip_bad: leave out, and note, images that are absent and those without a caption.
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
