"""Statistics of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jaxcap.datasets.inspection.caption_statistics import CaptionStatistics
from jaxcap.datasets.inspection.duplicates import Shared

TRAIN = "train"
"""The split whose words form the vocabulary."""


@dataclass(frozen=True)
class Place:
    """A record, or one of its captions.

    Attributes:
      split: the split of the record.
      index: the index of the record in its split.
      image_id: the `image_id` of the record.
      text: the caption, if this refers to one.
    """

    split: str
    index: int
    image_id: str
    text: str = ""


@dataclass(frozen=True)
class Group:
    """A group of identical items.

    Attributes:
      count: the number of items.
      places: the first few of them.
    """

    count: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Repeats:
    """Items that occur more than once.

    Attributes:
      shared: the number of common items for each pair of splits that has any.
      examples: some groups: images across splits first, and the most frequent captions.
      complete: whether all items were compared.
    """

    shared: tuple[Shared, ...] = ()
    examples: tuple[Group, ...] = ()
    complete: bool = True

    def between(self, first: str, second: str) -> int:
        """Return the number of items of `second` that also occur in `first`."""
        return next((s.items for s in self.shared if s.splits == (first, second)), 0)


@dataclass(frozen=True)
class ImageStatistics:
    """The images of a split.

    Attributes:
      sizes: (width, height) in pixels → number of images.
      kinds: format and mode, such as "JPEG RGB" → number of images.
      unreadable: the number of images that cannot be decoded.
      problems: the image_id and the reason for some of those.
    """

    sizes: Mapping[tuple[int, int], int]
    kinds: Mapping[str, int]
    unreadable: int = 0
    problems: tuple[tuple[str, str], ...] = ()

    @property
    def readable(self) -> int:
        """The number of images that can be decoded."""
        return sum(self.sizes.values())

    def sides(self, *, longer: bool) -> dict[int, int]:
        """Count images by their longer or shorter side in pixels."""
        counts: dict[int, int] = {}
        for size, count in self.sizes.items():
            side = max(size) if longer else min(size)
            counts[side] = counts.get(side, 0) + count
        return dict(sorted(counts.items()))


@dataclass(frozen=True)
class DataStatistics:
    """The statistics of a data set. Parts that were not inspected are empty or None.

    Attributes:
      name: the name of the data set.
      captions: captions by split, starting with the split that forms the vocabulary.
      units: the unit of captions: "words", "characters" or "pieces".
      images: images by split.
      same_images: image files with the same bytes.
      alike_images: images that look the same, including those with the same bytes.
      same_names: records with the same image_id.
      same_captions: captions with the same words, of one image or of several.
    """

    name: str
    captions: Mapping[str, CaptionStatistics]
    units: str = "words"
    images: Mapping[str, ImageStatistics] = field(default_factory=dict)
    same_images: Repeats | None = None
    alike_images: Repeats | None = None
    same_names: Repeats | None = None
    same_captions: Repeats | None = None

    @property
    def vocabulary_split(self) -> str | None:
        """The split that forms the vocabulary: `train`, or the first split if there is none."""
        return TRAIN if TRAIN in self.captions else next(iter(self.captions), None)

    @property
    def known(self) -> Mapping[str, int]:
        """Word → number of occurrences in the training captions."""
        split = self.vocabulary_split
        return {} if split is None else self.captions[split].words


def in_order(splits: Iterable[str]) -> list[str]:
    """Sort the splits, with `train` first."""
    return sorted(splits, key=lambda split: split != TRAIN)
