"""Count n-grams as integers, once for both BLEU and CIDEr-D.

Each word has an id, and so does each n-gram: its code consists of the id of its first n − 1 words
and the id of its last word. Captions are concatenated in one flat array, so that a few sorts count
the n-grams of thousands of captions. `References` indexes the references once;
`References.match` then matches any candidates against them, such as a split or a batch of samples.

`B` images, `N` candidates per image, `R` references of these images in all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from jaxcap.metrics.checks import check_pairs

MAX_ORDER = 4

_WORD_BITS = 31  # of an n-gram's code: the lower bits hold the last word, the upper the prefix


@dataclass(frozen=True)
class Captions:
    """Captions of any lengths, concatenated."""

    words: Int[np.ndarray, " W"]
    """The ids of all words, ≥ 0."""
    lengths: Int[np.ndarray, " captions"]
    """The number of words of each caption, ≥ 0."""

    @classmethod
    def from_words(
        cls, captions: Iterable[Sequence[Hashable]], ids: dict[Hashable, int]
    ) -> Captions:
        """Replace words by ids, adding new words to `ids`."""
        number = ids.setdefault
        words: list[int] = []
        lengths = []
        for caption in captions:
            words += [number(word, len(ids)) for word in caption]
            lengths.append(len(caption))
        return cls(np.array(words, np.int64), np.array(lengths, np.int64))

    @cached_property
    def owner(self) -> Int[np.ndarray, " W"]:
        """The index of the caption of each word."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def after(self) -> Int[np.ndarray, " W"]:
        """The number of words from each word to the end of its caption, itself included."""
        return np.repeat(np.cumsum(self.lengths), self.lengths) - np.arange(len(self.words))


def _starts(lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, " starts"]:
    return np.concatenate([[0], np.cumsum(lengths)])


def _slices(
    starts: Int[np.ndarray, " starts"], rows: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"], Int[np.ndarray, " ends"]]:
    """Return the indices that `rows` span, the row of each, and the new start of each row."""
    lengths = starts[rows + 1] - starts[rows]
    begin = _starts(lengths)
    indices = np.arange(begin[-1]) + np.repeat(starts[rows] - begin[:-1], lengths)
    return indices, np.repeat(np.arange(len(rows)), lengths), begin


def _find(
    table: Int[np.ndarray, " n"], wanted: Int[np.ndarray, " M"]
) -> tuple[Int[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    """Return the place of each value in a sorted table, and whether it is there."""
    place = np.searchsorted(table, wanted)
    found = place < len(table)
    found[found] = table[place[found]] == wanted[found]
    return place, found


def _grams(
    captions: Captions, number: Callable[[int, np.ndarray], np.ndarray]
) -> Iterator[tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]]:
    """Yield the captions and ids of all n-grams in text order, for n = 1 … 4.

    Args:
      captions: the captions.
      number: (n, codes) to ids; two n-grams have the same code if and only if they are equal.
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
    """The n-grams of candidates and of the references of their images.

    A *gram* is a distinct n-gram of a candidate, an *entry* a distinct n-gram of a reference, and
    a *column* a distinct n-gram of all references of an image.
    """

    shape: tuple[int, int]
    """B, N."""
    images: int
    """The number of indexed images, not only the B that are matched."""
    lengths: Int[np.ndarray, "B N"]

    owner: Int[np.ndarray, " grams"]
    """The index of the candidate among B·N."""
    order: Int[np.ndarray, " grams"]
    """n − 1."""
    count: Int[np.ndarray, " grams"]
    frequency: Int[np.ndarray, " grams"]
    """The number of indexed images whose references hold it."""
    column: Int[np.ndarray, " grams"]
    """Its column; −1 if no reference of the image holds it."""

    most: Int[np.ndarray, " columns"]
    """The largest count in any single reference."""

    entry_reference: Int[np.ndarray, " entries"]
    entry_order: Int[np.ndarray, " entries"]
    entry_count: Int[np.ndarray, " entries"]
    entry_frequency: Int[np.ndarray, " entries"]
    entry_column: Int[np.ndarray, " entries"]

    reference_image: Int[np.ndarray, " R"]
    """The index among B of each reference's image."""
    reference_starts: Int[np.ndarray, " ends"]
    reference_lengths: Int[np.ndarray, " R"]


class References:
    """An index of the n-grams of the references of several images.

    Attributes:
      images: the number of images.
      frequency: by n-gram id, the number of images whose references contain the n-gram.
    """

    def __init__(self, captions: Captions, per_image: Int[np.ndarray, " images"]) -> None:
        """Index references.

        Args:
          captions: the references of all images, image after image.
          per_image: the number of references of each image, ≥ 1.
        """
        self.images = len(per_image)
        self._reference_starts = _starts(per_image)
        self._lengths = captions.lengths

        # The id of an n-gram is its place in the sorted codes of its order, plus the offset.
        self._codes: list[np.ndarray] = []
        self._offsets = [0]

        def number(n: int, codes: np.ndarray) -> np.ndarray:
            known, place = np.unique(codes, return_inverse=True)
            self._codes.append(known)
            self._offsets.append(self._offsets[-1] + len(known))
            return place + self._offsets[n - 1]

        owner, gram = (np.concatenate(each) for each in zip(*_grams(captions, number), strict=True))
        size = self._offsets[-1]

        # Sorted by reference and order. MS COCO has tens of millions of entries: store 32 bits.
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
        """Count the n-grams of candidates and match them with the references of their images.

        Args:
          candidates: N captions of `images[0]`, then N of `images[1]`, and so on.
          images: the indices of the images; an image may occur twice.
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
        """Return the owner, order, id and count of each distinct n-gram of each caption."""
        end = len(self.frequency)  # the next id for n-grams that no reference holds

        def number(n: int, codes: np.ndarray) -> np.ndarray:
            nonlocal end
            # Searching for sorted codes is several times faster.
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
    """Index tokenised references and match one tokenised candidate per image.

    Raises:
      InputError: there are no images, an image has no references, the numbers of images differ, or
        a caption is a string instead of a sequence of tokens.
    """
    check_pairs(candidates, references)
    ids: dict[Hashable, int] = {}
    index = References(
        Captions.from_words((each for refs in references for each in refs), ids),
        np.array([len(refs) for refs in references]),
    )
    return index.match(Captions.from_words(candidates, ids), np.arange(len(candidates)))
