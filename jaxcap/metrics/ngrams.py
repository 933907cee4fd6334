"""n-grams as integers: what BLEU and CIDEr-D both count, counted once.

A word is an id, and an n-gram of any order an id too, given by its first n − 1 words' id and its
last word's. Captions lie one after the other in one flat array, so that thousands of them are
counted by a few sorts instead of a dictionary each. The references are indexed once
(`References`); any number of candidates is then matched against them (`References.match`), a
whole split of them or one batch of sampled captions.

`B` images, `N` candidates of each, `R` references of these images (any number of each).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from jaxcap.metrics.checks import check_pairs

MAX_ORDER = 4

_WORD_BITS = 31  # an n-gram's code is its prefix's id and its last word's, side by side


@dataclass(frozen=True)
class Captions:
    """Captions of any length, one after the other."""

    words: Int[np.ndarray, " W"]
    """The ids of all words, ≥ 0."""
    lengths: Int[np.ndarray, " captions"]
    """How many of them belong to each caption; it may be none."""

    @classmethod
    def from_words(
        cls, captions: Iterable[Sequence[Hashable]], ids: dict[Hashable, int]
    ) -> Captions:
        """Numbers words, adding those not met before to `ids`."""
        number = ids.setdefault
        words: list[int] = []
        lengths = []
        for caption in captions:
            words += [number(word, len(ids)) for word in caption]
            lengths.append(len(caption))
        return cls(np.array(words, np.int64), np.array(lengths, np.int64))

    @cached_property
    def owner(self) -> Int[np.ndarray, " W"]:
        """Which caption each word belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def after(self) -> Int[np.ndarray, " W"]:
        """How many words of the caption are left at each, itself included."""
        return np.repeat(np.cumsum(self.lengths), self.lengths) - np.arange(len(self.words))


def _starts(lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, " starts"]:
    return np.concatenate([[0], np.cumsum(lengths)])


def _slices(
    starts: Int[np.ndarray, " starts"], rows: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"], Int[np.ndarray, " ends"]]:
    """The indices that `rows` span, whose row each is, and where each row now starts."""
    lengths = starts[rows + 1] - starts[rows]
    begin = _starts(lengths)
    indices = np.arange(begin[-1]) + np.repeat(starts[rows] - begin[:-1], lengths)
    return indices, np.repeat(np.arange(len(rows)), lengths), begin


def _find(
    table: Int[np.ndarray, " n"], wanted: Int[np.ndarray, " M"]
) -> tuple[Int[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    """Where in a sorted table each value is, if it is there."""
    place = np.searchsorted(table, wanted)
    found = place < len(table)
    found[found] = table[place[found]] == wanted[found]
    return place, found


def _grams(
    captions: Captions, number: Callable[[int, np.ndarray], np.ndarray]
) -> Iterator[tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]]:
    """For n = 1 … 4: the caption and the id of every n-gram, in the order of the text.

    Args:
      number: (n, codes) -> ids; two n-grams have the same code if and only if they are the same.
    """
    at = np.arange(len(captions.words))
    ids = words = number(1, captions.words)
    yield captions.owner, ids
    for n in range(2, MAX_ORDER + 1):
        whole = captions.after[at] >= n
        at = at[whole]
        ids = number(n, (ids[whole] << _WORD_BITS) | words[at + n - 1])
        yield captions.owner[at], ids


@dataclass(frozen=True)
class Matches:
    """Candidates beside the references of their images; the arrays are of pairs.

    A *gram* is an n-gram that a candidate holds, counted; an *entry* one that a reference holds.
    Columns number the different n-grams of each image's references.
    """

    shape: tuple[int, int]
    """B, N."""
    images: int
    """How many are indexed, not only the B that are matched."""
    lengths: Int[np.ndarray, "B N"]

    owner: Int[np.ndarray, " grams"]
    """Which candidate, of B·N."""
    order: Int[np.ndarray, " grams"]
    """n − 1."""
    count: Int[np.ndarray, " grams"]
    frequency: Int[np.ndarray, " grams"]
    """The references of how many indexed images hold it; 0 if it is unknown."""
    column: Int[np.ndarray, " grams"]
    """Where `most` has it; −1 if no reference of this image holds it."""

    most: Int[np.ndarray, " columns"]
    """The greatest count of an n-gram in any one reference."""

    entry_reference: Int[np.ndarray, " entries"]
    entry_order: Int[np.ndarray, " entries"]
    entry_count: Int[np.ndarray, " entries"]
    entry_frequency: Int[np.ndarray, " entries"]
    entry_column: Int[np.ndarray, " entries"]

    reference_image: Int[np.ndarray, " R"]
    """Which of the B images each reference is of."""
    reference_starts: Int[np.ndarray, " ends"]
    reference_lengths: Int[np.ndarray, " R"]


class References:
    """The n-grams of several images' references, ready to be matched.

    Attributes:
      images: how many.
      frequency: in the references of how many images each n-gram occurs, by its id.
    """

    def __init__(self, captions: Captions, per_image: Int[np.ndarray, " images"]) -> None:
        """Indexes references.

        Args:
          captions: those of all images, image after image.
          per_image: how many each image has, at least one.
        """
        self.images = len(per_image)
        self._reference_starts = _starts(per_image)
        self._lengths = captions.lengths

        self._codes: list[np.ndarray] = []  # of each order, sorted: an n-gram's id is its place
        self._offsets = [0]  # … after all those of lower order

        def number(n: int, codes: np.ndarray) -> np.ndarray:
            known, place = np.unique(codes, return_inverse=True)
            self._codes.append(known)
            self._offsets.append(self._offsets[-1] + len(known))
            return place + self._offsets[n - 1]

        owner, gram = (np.concatenate(each) for each in zip(*_grams(captions, number), strict=True))
        size = self._offsets[-1]

        # Sorted by reference, and so by image; within a reference by order. A split of MS COCO
        # has tens of millions of entries: half-size integers where they stay.
        keys, counts = np.unique(owner * size + gram, return_counts=True)
        reference, gram = np.divmod(keys, size)
        image = np.repeat(np.arange(self.images), per_image)[reference]
        columns, place = np.unique(image * size + gram, return_inverse=True)
        column_image, column_gram = np.divmod(columns, size)

        self._entry_starts = _starts(np.bincount(image, minlength=self.images))
        self._entry_reference = reference.astype(np.int32)
        self._entry_gram = gram.astype(np.int32)
        self._entry_count = counts.astype(np.int32)
        self._entry_column = place.astype(np.int32)
        self._column_starts = _starts(np.bincount(column_image, minlength=self.images))
        self._column_gram = column_gram.astype(np.int32)
        self._column_most = np.zeros(len(columns), np.int32)
        np.maximum.at(self._column_most, self._entry_column, self._entry_count)
        self.frequency = np.bincount(column_gram, minlength=size)

    def match(self, candidates: Captions, images: Int[np.ndarray, " B"]) -> Matches:
        """Counts the n-grams of candidates and finds them in their images' references.

        Args:
          candidates: of image `images[0]` first, then of `images[1]`, …: equally many of each.
          images: which of the indexed images; one may come twice.
        """
        per_image = len(candidates.lengths) // len(images)
        owner, order, gram, count = self._count(candidates)
        columns, column_image, column_starts = _slices(self._column_starts, images)
        entries, entry_image, _ = _slices(self._entry_starts, images)
        references, reference_image, reference_starts = _slices(self._reference_starts, images)

        size = len(self.frequency)
        column = np.full(len(gram), -1)
        known = gram < size
        place, found = _find(
            column_image * size + self._column_gram[columns],
            owner[known] // per_image * size + gram[known],
        )
        column[known] = np.where(found, place, -1)
        frequency = np.zeros(len(gram), np.int64)
        frequency[known] = self.frequency[gram[known]]

        def local(values: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return values[entries] + (new[:-1] - old[images])[entry_image]

        entry_gram = self._entry_gram[entries]
        return Matches(
            shape=(len(images), per_image),
            images=self.images,
            lengths=candidates.lengths.reshape(len(images), per_image),
            owner=owner,
            order=order,
            count=count,
            frequency=frequency,
            column=column,
            most=self._column_most[columns],
            entry_reference=local(self._entry_reference, self._reference_starts, reference_starts),
            entry_order=np.searchsorted(self._offsets, entry_gram, side="right") - 1,
            entry_count=self._entry_count[entries],
            entry_frequency=self.frequency[entry_gram],
            entry_column=local(self._entry_column, self._column_starts, column_starts),
            reference_image=reference_image,
            reference_starts=reference_starts,
            reference_lengths=self._lengths[references],
        )

    def _count(self, captions: Captions) -> tuple[np.ndarray, ...]:
        """The owner, order, id and count of each n-gram of each caption."""
        end = len(self.frequency)  # the id of the next n-gram that no reference holds

        def number(n: int, codes: np.ndarray) -> np.ndarray:
            nonlocal end
            # Sorted codes are found several times faster than scattered ones.
            different, which = np.unique(codes, return_inverse=True)
            place, known = _find(self._codes[n - 1], different)
            ids = np.where(known, place + self._offsets[n - 1], end + np.arange(len(different)))
            end += len(different)
            return ids[which]

        grams = []
        for order, (owner, gram) in enumerate(_grams(captions, number)):
            keys, counts = np.unique(owner * end + gram, return_counts=True)
            owner, gram = np.divmod(keys, end)
            grams.append((owner, np.full(len(keys), order), gram, counts))
        return tuple(np.concatenate(each) for each in zip(*grams, strict=True))


def match_words(
    candidates: Sequence[Sequence[Hashable]],
    references: Sequence[Sequence[Sequence[Hashable]]],
) -> Matches:
    """Indexes tokenised references and matches one tokenised candidate per image.

    Raises:
      InputError: no images, an image without references, or lengths that differ.
    """
    check_pairs(candidates, references)
    ids: dict[Hashable, int] = {}
    index = References(
        Captions.from_words((each for refs in references for each in refs), ids),
        np.array([len(refs) for refs in references]),
    )
    return index.match(Captions.from_words(candidates, ids), np.arange(len(candidates)))
