"""Store the captions of a split in a few flat arrays: 268 MB for a million images with five each.

Lists and tuples would take gigabytes, and Python's garbage collector would keep visiting every
object in them.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from jaxcap.config import DataConfig
from jaxcap.text.units import WORDS, TextUnits
from jaxcap.text.vocabulary import BOS, EOS, Vocabulary

_AT_ONCE = 1 << 16
"""Captions that are encoded together, which bounds the temporary arrays."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A ragged array [images, captions, values], stored without gaps.

    Attributes:
      values: the values of all captions, one caption after the other.
      captions: the offset of each caption in `values`, and the total.
      images: the offset of each image in `captions`, and the total.
    """

    values: Integer[np.ndarray, " values"]
    captions: Int[np.ndarray, " captions_and_end"]
    images: Int[np.ndarray, " images_and_end"]

    def __len__(self) -> int:
        return len(self.images) - 1

    def __getitem__(self, image: int) -> list[np.ndarray]:
        """Return the values of each caption of one image, as views."""
        bounds = self.captions[self.images[image] : self.images[image + 1] + 1].tolist()
        return [self.values[begin:end] for begin, end in itertools.pairwise(bounds)]

    def part(self, begin: int, end: int) -> Rows:
        """Return the images `begin` to `end` − 1, which share the values."""
        images = self.images[begin : end + 1]
        captions = self.captions[images[0] : images[-1] + 1]
        values = self.values[captions[0] : captions[-1]]
        return Rows(values, captions - captions[0], images - images[0])

    @property
    def lengths(self) -> Int[np.ndarray, " captions"]:
        """The number of values in each caption."""
        return np.diff(self.captions)


@dataclass(frozen=True, eq=False)
class SplitCaptions(Sequence[list[list[str]]]):
    """The captions of a split as text units: element `i` lists the captions of image `i`.

    Attributes:
      units: the distinct units, in order of first appearance.
      rows: the indices into `units` of every caption.
    """

    units: tuple[str, ...]
    rows: Rows

    @classmethod
    def collect(cls, captions: Iterable[Iterable[Sequence[str]]]) -> SplitCaptions:
        """Pack the captions of each image; the input may be a generator."""
        places: dict[str, int] = {}
        values, ends, images = array("i"), array("q", [0]), array("q", [0])
        for of_image in captions:
            for units in of_image:
                values.extend([places.setdefault(unit, len(places)) for unit in units])
                ends.append(len(values))
            images.append(len(ends) - 1)
        rows = Rows(
            np.frombuffer(values, np.int32) if values else np.zeros(0, np.int32),
            np.frombuffer(ends, np.int64),
            np.frombuffer(images, np.int64),
        )
        return cls(tuple(places), rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return [[self.units[i] for i in row] for row in self.rows[index % len(self)]]

    def to_bytes(self) -> bytes:
        """Return the content of a file that `from_bytes` reads."""
        file = io.BytesIO()
        np.savez(
            file, units=np.frombuffer(json.dumps(self.units).encode(), np.uint8), **vars(self.rows)
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> SplitCaptions:
        """Read what `to_bytes` returned."""
        arrays = dict(np.load(io.BytesIO(content)))
        return cls(tuple(json.loads(arrays.pop("units").tobytes())), Rows(**arrays))

    def counts(self) -> dict[str, int]:
        """Count the occurrences of each unit."""
        found = np.bincount(self.rows.values, minlength=len(self.units))
        return dict(zip(self.units, found.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Captions(Sequence[tuple[tuple[int, ...], ...]]):
    """The captions of a split as token ids with `<bos>` and `<eos>`, by image."""

    rows: Rows

    @classmethod
    def encode(
        cls,
        texts: SplitCaptions | Sequence[Sequence[Sequence[str]]],
        vocabulary: Vocabulary,
        *,
        config: DataConfig,
    ) -> Captions:
        """Encode the first `captions_per_image` captions of every image.

        Vectorised, with the same result as `Vocabulary.encode` on each caption.
        """
        if not isinstance(texts, SplitCaptions):
            texts = SplitCaptions.collect(texts)
        ids = np.array([vocabulary.id_of(unit) for unit in texts.units], np.int32)
        small = np.uint16 if len(vocabulary) <= 1 << 16 else np.int32
        rows, longest = texts.rows, config.length_buckets[-1]
        counts = np.minimum(np.diff(rows.images), config.captions_per_image)
        chosen = np.repeat(rows.images[:-1], counts) + _places(counts)
        lengths = np.minimum(rows.lengths[chosen] + 2, longest)
        bounds = _bounds(lengths)
        values = np.empty(bounds[-1], small)
        for first in range(0, len(chosen), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            place = _places(lengths[some])  # position of each id in its caption
            end = np.repeat(rows.lengths[chosen[some]] + 1, lengths[some])
            begin = np.repeat(rows.captions[chosen[some]], lengths[some])
            inside = (place > 0) & (place < end)
            part = np.where(place == 0, BOS, EOS).astype(small)
            part[inside] = ids[rows.values[(begin + place - 1)[inside]]]
            values[bounds[first] : bounds[first] + len(part)] = part
        return cls(Rows(values, bounds, _bounds(counts)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return tuple(tuple(row.tolist()) for row in self.rows[index % len(self)])

    @functools.cached_property
    def longest(self) -> Int[np.ndarray, " images"]:
        """Length in tokens of the longest caption of each image; 0 where there is none."""
        longest = np.zeros(len(self), np.int64)
        some = np.diff(self.rows.images) > 0
        if some.any():
            # Images without captions take no room, so the next one's begin is this one's end.
            longest[some] = np.maximum.reduceat(self.rows.lengths, self.rows.images[:-1][some])
        return longest


def _bounds(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _places(lengths: np.ndarray) -> np.ndarray:
    """Count from 0 in runs of these lengths: [2, 3] gives 0 1 0 1 2."""
    bounds = _bounds(lengths)
    return np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)


def split_captions(captions: Iterable[Sequence[str]], units: TextUnits = WORDS) -> SplitCaptions:
    """Split the captions of every image into units, leaving out captions without any."""
    return SplitCaptions.collect(_split(captions, units))


def _split(captions: Iterable[Sequence[str]], units: TextUnits) -> Iterator[Iterator[list[str]]]:
    for of_image in captions:
        yield (split for caption in of_image if (split := units.split(caption)))
