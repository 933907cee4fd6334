"""What a data set holds, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jaxcap.datasets.inspection.caption_statistics import CaptionStatistics
from jaxcap.datasets.inspection.duplicates import Shared

TRAIN = "train"
"""The split whose words make the vocabulary."""


@dataclass(frozen=True)
class Place:
    """Where something stands in the data set.

    Attributes:
      index: of the record in its split.
      image_id: what the record says it is called.
      text: the caption, where it is one that was found.
    """

    split: str
    index: int
    image_id: str
    text: str = ""


@dataclass(frozen=True)
class Group:
    """Items that are one.

    Attributes:
      count: how many.
      places: where the first of them stand.
    """

    count: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Repeats:
    """Items that are there more than once.

    Attributes:
      shared: how many, for each pair of splits that has any.
      examples: some of them: those of several splits first, of captions the most frequent.
      complete: whether all were compared.
    """

    shared: tuple[Shared, ...] = ()
    examples: tuple[Group, ...] = ()
    complete: bool = True

    def between(self, first: str, second: str) -> int:
        """Items of `second` that are in `first`, too."""
        return next((s.items for s in self.shared if s.splits == (first, second)), 0)


@dataclass(frozen=True)
class ImageStatistics:
    """The images of a split.

    Attributes:
      sizes: (width, height) in pixels → how many.
      kinds: format and mode, such as "JPEG RGB" → how many.
      unreadable: how many cannot be decoded.
      problems: of some of these, the image_id and why.
    """

    sizes: Mapping[tuple[int, int], int]
    kinds: Mapping[str, int]
    unreadable: int = 0
    problems: tuple[tuple[str, str], ...] = ()

    @property
    def readable(self) -> int:
        """How many can be decoded."""
        return sum(self.sizes.values())

    def sides(self, *, longer: bool) -> dict[int, int]:
        """The longer or the shorter side in pixels → how many images."""
        counts: dict[int, int] = {}
        for size, count in self.sizes.items():
            side = max(size) if longer else min(size)
            counts[side] = counts.get(side, 0) + count
        return dict(sorted(counts.items()))


@dataclass(frozen=True)
class DataStatistics:
    """A data set. What was not looked at is empty or None.

    Attributes:
      captions: by split, the one that makes the vocabulary first.
      units: what captions were counted in: "words", "characters" or "pieces".
      images: by split.
      same_images: files of the same bytes.
      alike_images: pictures that look the same, those of the same bytes among them.
      same_names: records of the same image_id.
      same_captions: captions of the same words, of one image or of several.
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
        """`train`; where there is none, the first split stands for it."""
        return TRAIN if TRAIN in self.captions else next(iter(self.captions), None)

    @property
    def known(self) -> Mapping[str, int]:
        """Word → how often the training captions have it."""
        split = self.vocabulary_split
        return {} if split is None else self.captions[split].words


def in_order(splits: Iterable[str]) -> list[str]:
    """The splits, the one that makes the vocabulary first."""
    return sorted(splits, key=lambda split: split != TRAIN)
