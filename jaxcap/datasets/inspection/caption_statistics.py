"""Count the captions of a split in one pass, with memory proportional to the vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxcap.data.captions import SplitCaptions

Words = Sequence[str]
"""A tokenised caption."""

FREQUENT = 20
"""The default upper limit of `min_count` in `coverage`."""


@dataclass(frozen=True)
class CaptionStatistics:
    """Counts over the captions of a split. Captions without words are not counted as captions.

    Attributes:
      images: the number of images.
      per_image: number of captions → number of images with that many.
      lengths: number of words → number of captions of that length.
      wordless: the number of captions without words.
      repeated: the number of captions that repeat an earlier one of the same image word for word;
        None if not counted.
      words: word → number of occurrences.
      rarest: number of occurrences in training of a caption's rarest word, at most `frequent` →
        number of captions.
      frequent: the highest `min_count` that `rarest` covers.
    """

    images: int
    per_image: Mapping[int, int]
    lengths: Mapping[int, int]
    wordless: int
    repeated: int | None
    words: Mapping[str, int]
    rarest: Mapping[int, int]
    frequent: int

    @property
    def captions(self) -> int:
        """The number of captions with at least one word."""
        return sum(self.lengths.values())

    @property
    def running_words(self) -> int:
        """The total number of words."""
        return sum(n * count for n, count in self.lengths.items())

    @property
    def mean_length(self) -> float:
        """The mean length in words; 0 without captions."""
        return self.running_words / max(1, self.captions)

    def percentile(self, percent: float | int) -> int:
        """Return the smallest length in words that `percent` of the captions do not exceed."""
        return percentile(self.lengths, percent)

    def longer_than(self, words: int) -> int:
        """Count the captions with more words."""
        return sum(count for n, count in self.lengths.items() if n > words)


@dataclass(frozen=True)
class Coverage:
    """How well a vocabulary covers some captions.

    Attributes:
      min_count: the minimum number of occurrences in training of a word of the vocabulary.
      vocabulary: the number of words in the vocabulary, without special tokens.
      unknown: the fraction of running words that become `<unk>`.
      whole: the fraction of captions without `<unk>`.
    """

    min_count: int
    vocabulary: int
    unknown: float
    whole: float


def percentile(counts: Mapping[int, int], percent: float | int) -> int:
    """Return the smallest value that `percent` of the counted items do not exceed, or 0."""
    wanted, seen = percent / 100 * sum(counts.values()), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return 0


def count_captions(
    images: Iterable[Sequence[Words]],
    *,
    known: Mapping[str, int] | None = None,
    frequent: int = FREQUENT,
) -> CaptionStatistics:
    """Count the tokenised captions of each image.

    Args:
      images: the captions of each image; iterated once.
      known: the number of occurrences of each word in training; None if this is the training
        split.
      frequent: the highest `min_count` to support.
    """
    counter = CaptionCounter(known=known, frequent=frequent)
    for captions in images:
        counter.add(captions)
    return counter.statistics()


class CaptionCounter:
    """Counts captions incrementally; see `count_captions`."""

    def __init__(self, *, known: Mapping[str, int] | None = None, frequent: int = FREQUENT) -> None:
        self._known, self._frequent = known, frequent
        self._images = self._wordless = self._repeated = 0
        self._per_image: Counter[int] = Counter()
        self._lengths: Counter[int] = Counter()
        self._words: Counter[str] = Counter()
        self._rarest: Counter[int] = Counter()
        # The words of each caption that were still rare when it came. Each word is stored fewer
        # than `frequent` times, so this grows with the vocabulary, not with the captions.
        self._open: list[tuple[str, ...]] = []

    def add(self, captions: Sequence[Words]) -> None:
        """Count the captions of one more image."""
        self._images += 1
        said = [words for words in captions if words]
        self._wordless += len(captions) - len(said)
        self._repeated += len(said) - len({tuple(words) for words in said})
        self._per_image[len(said)] += 1
        for words in said:
            self._lengths[len(words)] += 1
            self._words.update(words)
            self._weigh(words)

    def _weigh(self, words: Words) -> None:
        if self._known is not None:
            rarest = min(self._known.get(word, 0) for word in words)
            self._rarest[min(rarest, self._frequent)] += 1
        elif rare := tuple({word for word in words if self._words[word] < self._frequent}):
            self._open.append(rare)
        else:
            self._rarest[self._frequent] += 1

    def statistics(self) -> CaptionStatistics:
        """Return the counts so far."""
        rarest = self._rarest.copy()
        for rare in self._open:
            rarest[min(self._frequent, *(self._words[word] for word in rare))] += 1
        return CaptionStatistics(
            images=self._images,
            per_image=dict(sorted(self._per_image.items())),
            lengths=dict(sorted(self._lengths.items())),
            wordless=self._wordless,
            repeated=self._repeated,
            words=dict(self._words),
            rarest=dict(sorted(rarest.items())),
            frequent=self._frequent,
        )


def count_split_captions(texts: SplitCaptions, *, frequent: int = FREQUENT) -> CaptionStatistics:
    """Compute `count_captions` of the training split from flat arrays, in a second for millions.

    Repeated captions are not counted.
    """
    rows, lengths = texts.rows, texts.rows.lengths
    words = texts.counts()
    often = np.array([min(n, frequent) for n in words.values()], np.int32)[rows.values]
    # `reduceat` needs rows that are not empty, and every caption here has a word.
    rarest = np.minimum.reduceat(often, rows.captions[:-1]) if len(lengths) else often
    return CaptionStatistics(
        images=len(texts),
        per_image=_counted(np.diff(rows.images)),
        lengths=_counted(lengths),
        wordless=0,
        repeated=None,
        words=words,
        rarest=_counted(rarest),
        frequent=frequent,
    )


def _counted(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def coverage(captions: CaptionStatistics, known: Mapping[str, int], *, min_count: int) -> Coverage:
    """Compute how well a vocabulary covers captions.

    Args:
      captions: the counts of any split.
      known: the number of occurrences of each word in training.
      min_count: the minimum number of occurrences of a word in the vocabulary.
    """
    if not 1 <= min_count <= captions.frequent:
        raise ValueError(f"min_count is {min_count}; expected 1 to {captions.frequent}")
    lost = sum(n for word, n in captions.words.items() if known.get(word, 0) < min_count)
    whole = sum(n for least, n in captions.rarest.items() if least >= min_count)
    return Coverage(
        min_count=min_count,
        vocabulary=sum(n >= min_count for n in known.values()),
        unknown=lost / max(1, captions.running_words),
        whole=whole / max(1, captions.captions),
    )
