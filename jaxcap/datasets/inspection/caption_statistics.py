"""What the captions of a split are like: one pass, and memory by the vocabulary alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxcap.data.captions import SplitCaptions

Words = Sequence[str]
"""A caption, tokenised."""

FREQUENT = 20
"""Minimum counts that coverage is known for, unless told otherwise: 1 to this."""


@dataclass(frozen=True)
class CaptionStatistics:
    """The captions of a split. One without a word counts as none.

    Attributes:
      images: how many there are.
      per_image: number of captions → how many images have so many.
      lengths: number of words → how many captions have so many.
      wordless: captions without a word.
      repeated: captions whose words an earlier one of the same image has, too; None if nobody
        looked.
      words: word → how often it occurs.
      rarest: how often the training captions have a caption's rarest word → how many captions;
        what is seen `frequent` times and more counts as `frequent`.
      frequent: the greatest minimum count that `rarest` tells about.
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
        """How many have a word."""
        return sum(self.lengths.values())

    @property
    def running_words(self) -> int:
        """How many words all captions have together."""
        return sum(n * count for n, count in self.lengths.items())

    @property
    def mean_length(self) -> float:
        """In words; 0 where there are no captions."""
        return self.running_words / max(1, self.captions)

    def percentile(self, percent: float | int) -> int:
        """The shortest length, in words, that so many percent of the captions do not exceed."""
        return percentile(self.lengths, percent)

    def longer_than(self, words: int) -> int:
        """How many captions have more words."""
        return sum(count for n, count in self.lengths.items() if n > words)


@dataclass(frozen=True)
class Coverage:
    """What a vocabulary of the training words seen `min_count` times says of some captions.

    Attributes:
      vocabulary: its words, without `<pad>` and its kin.
      unknown: share of the running words that become `<unk>`.
      whole: share of the captions that keep every word.
    """

    min_count: int
    vocabulary: int
    unknown: float
    whole: float


def percentile(counts: Mapping[int, int], percent: float | int) -> int:
    """The least value that at least so many percent of what is counted do not exceed; else 0."""
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
    """Counts what the tokenised captions of each image say.

    Args:
      images: of each image its captions; read once.
      known: how often each word occurs in the training split; None if this is that split.
      frequent: the greatest minimum count of interest.
    """
    counter = CaptionCounter(known=known, frequent=frequent)
    for captions in images:
        counter.add(captions)
    return counter.statistics()


class CaptionCounter:
    """Counts captions as they come; see `count_captions`."""

    def __init__(self, *, known: Mapping[str, int] | None = None, frequent: int = FREQUENT) -> None:
        self._known, self._frequent = known, frequent
        self._images = self._wordless = self._repeated = 0
        self._per_image: Counter[int] = Counter()
        self._lengths: Counter[int] = Counter()
        self._words: Counter[str] = Counter()
        self._rarest: Counter[int] = Counter()
        # Captions that hold a word not yet seen often enough, with those words. A word is in here
        # fewer than `frequent` times, so this grows with the vocabulary and not with the captions.
        self._open: list[tuple[str, ...]] = []

    def add(self, captions: Sequence[Words]) -> None:
        """Counts the captions of one more image."""
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
        """What was counted so far."""
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


def of_split_captions(texts: SplitCaptions, *, frequent: int = FREQUENT) -> CaptionStatistics:
    """`count_captions` of the training split, from flat arrays: a second for millions of captions.

    It does not look for repeated captions.
    """
    rows, lengths = texts.rows, texts.rows.lengths
    words = texts.counts()
    often = np.array([min(n, frequent) for n in words.values()], np.int32)[rows.values]
    # Every caption here has a word, so none is empty.
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
    """How much of `captions` a vocabulary leaves whole.

    Args:
      captions: of any split.
      known: how often each word occurs in the training split.
      min_count: how often a word must occur there to be in the vocabulary.
    """
    if not 1 <= min_count <= captions.frequent:
        raise ValueError(f"min_count is {min_count}; counted was up to {captions.frequent}")
    lost = sum(n for word, n in captions.words.items() if known.get(word, 0) < min_count)
    whole = sum(n for least, n in captions.rarest.items() if least >= min_count)
    return Coverage(
        min_count=min_count,
        vocabulary=sum(n >= min_count for n in known.values()),
        unknown=lost / max(1, captions.running_words),
        whole=whole / max(1, captions.captions),
    )
