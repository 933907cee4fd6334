"""BLEU over a whole set of captions, and of each caption alone.

Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation",
https://aclanthology.org/P02-1040. Counts are pooled over all images before anything is divided,
the reference length is the closest one, and nothing is smoothed: the conventions of
coco-caption (https://github.com/tylin/coco-caption), whose numbers these equal.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jaxcap.errors import InputError

MAX_ORDER = 4

# coco-caption adds these so that no division is by zero. They show only in BLEU of one caption,
# where "no four-gram matches" becomes about 1e-4 times the rest rather than 0, and in sets so
# small that the same happens; the published protocol includes them, so we do.
_TINY = 1e-15
_SMALL = 1e-9


@dataclass(frozen=True)
class BleuResult:
    """BLEU-1 to BLEU-4, as fractions in [0, 1]."""

    corpus: list[float]
    """`[4]`: of all captions together, from pooled counts (not a mean over images)."""
    per_image: list[list[float]]
    """`[images][4]`: of each caption alone; for looking at images, not for reporting."""


@dataclass
class _Counts:
    """What the captions contribute to BLEU; addition pools two of them."""

    matches: list[int]  # clipped n-gram matches, per order
    totals: list[int]  # n-grams in the candidate, per order
    length: int  # c in the paper
    reference_length: int  # r in the paper

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(
            [a + b for a, b in zip(self.matches, other.matches, strict=True)],
            [a + b for a, b in zip(self.totals, other.totals, strict=True)],
            self.length + other.length,
            self.reference_length + other.reference_length,
        )


def ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    """Returns how often each run of `order` tokens occurs."""
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def check_pairs(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> None:
    """Raises `InputError` unless there are images, one candidate each, each with references."""
    if len(candidates) != len(references):
        raise InputError(
            f"{len(candidates)} candidates but {len(references)} sets of references; "
            "a metric needs one candidate and one set of references for each image."
        )
    if not candidates:
        raise InputError("There are no captions to score: expected one or more images, found 0.")
    for index, refs in enumerate(references):
        if not refs:
            raise InputError(f"Image {index} has no reference captions; expected one or more.")


def _count(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> _Counts:
    matches, totals = [], []
    for order in range(1, MAX_ORDER + 1):
        limit: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            limit |= ngrams(reference, order)  # union keeps the greatest count of each n-gram
        matches.append((ngrams(candidate, order) & limit).total())
        totals.append(max(0, len(candidate) - order + 1))
    length = len(candidate)
    # Of two references equally near in length, the shorter counts.
    closest = min((len(r) for r in references), key=lambda r: (abs(r - length), r))
    return _Counts(matches, totals, length, closest)


def _score(counts: _Counts) -> list[float]:
    """BP · (p₁ · … · pₙ)^(1/n) for n = 1 … 4 (equations 2 and 3, uniform weights)."""
    ratio = (counts.length + _TINY) / (counts.reference_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for order in range(1, MAX_ORDER + 1):
        product *= (counts.matches[order - 1] + _TINY) / (counts.totals[order - 1] + _SMALL)
        scores.append(brevity * product ** (1 / order))
    return scores


def bleu(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> BleuResult:
    """Scores candidates against references.

    Args:
      candidates: one tokenised caption per image; it may be empty.
      references: one or more tokenised reference captions per image, in the same order.

    Returns:
      Corpus and per-image BLEU-1 … BLEU-4, as fractions.

    Raises:
      InputError: no images, an image without references, or lengths that differ.
    """
    check_pairs(candidates, references)
    counts = [_count(c, refs) for c, refs in zip(candidates, references, strict=True)]
    pooled = counts[0]
    for each in counts[1:]:
        pooled = pooled + each
    return BleuResult(corpus=_score(pooled), per_image=[_score(each) for each in counts])
