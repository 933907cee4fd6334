"""BLEU over a whole set of captions, and of each caption alone.

Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation",
https://aclanthology.org/P02-1040. Counts are pooled over all images before anything is divided,
the reference length is the closest one, and nothing is smoothed: the conventions of
coco-caption (https://github.com/tylin/coco-caption), whose numbers these equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from jaxcap.metrics.ngrams import MAX_ORDER, Matches, match_words

# coco-caption adds these so that no division is by zero. They show only in BLEU of one caption,
# where "no four-gram matches" becomes about 1e-4 times the rest rather than 0, and in sets so
# small that the same happens; the published protocol includes them, so we do.
_TINY = 1e-15
_SMALL = 1e-9


@dataclass(frozen=True)
class BleuCounts:
    """All that BLEU needs to know of one caption, of many, or of several sets of them."""

    matches: Num[np.ndarray, "*captions 4"]
    """Clipped n-gram matches."""
    totals: Num[np.ndarray, "*captions 4"]
    """n-grams in the candidate."""
    lengths: Num[np.ndarray, "*captions"]
    """c in the paper."""
    reference_lengths: Num[np.ndarray, "*captions"]
    """r in the paper, of each candidate."""

    def pooled(self, weights: Num[np.ndarray, "*sets images"]) -> BleuCounts:
        """Adds up images, each as often as `weights` says: a bootstrap's draws, for example."""
        fields = (self.matches, self.totals, self.lengths, self.reference_lengths)
        return BleuCounts(*(np.asarray(weights @ field) for field in fields))

    def scores(self) -> Float[np.ndarray, "*captions 4"]:
        """BP · (p₁ · … · pₙ)^(1/n) for n = 1 … 4 (equations 2 and 3, uniform weights)."""
        ratio = (self.lengths + _TINY) / (self.reference_lengths + _SMALL)
        brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
        precisions = (self.matches + _TINY) / (self.totals + _SMALL)
        products = np.cumprod(precisions, axis=-1)
        return brevity[..., None] * products ** (1 / np.arange(1, MAX_ORDER + 1))


@dataclass(frozen=True)
class BleuResult:
    """BLEU-1 to BLEU-4, as fractions in [0, 1]."""

    corpus: list[float]
    """`[4]`: of all captions together, from pooled counts (not a mean over images)."""
    per_image: list[list[float]]
    """`[images][4]`: of each caption alone; for looking at images, not for reporting."""
    counts: BleuCounts
    """`[images]`: what was pooled."""


def count_matches(matches: Matches) -> BleuCounts:
    """What each of B·N candidates contributes to BLEU."""
    images, per_image = matches.shape
    candidates = images * per_image
    hit = matches.column >= 0
    clipped = np.minimum(matches.count[hit], matches.most[matches.column[hit]])
    orders = np.arange(MAX_ORDER)
    # Of two references equally near in length, the shorter counts: by twice the distance, and
    # one more for the longer.
    difference = matches.reference_lengths - matches.lengths[matches.reference_image].T  # [N, R]
    rank = 2 * np.abs(difference) + (difference > 0)
    nearest = np.minimum.reduceat(rank, matches.reference_starts[:-1], axis=1).T  # [B, N]
    closest = matches.lengths + np.where(nearest % 2, nearest // 2, -(nearest // 2))
    return BleuCounts(
        matches=np.bincount(
            matches.owner[hit] * MAX_ORDER + matches.order[hit],
            weights=clipped,
            minlength=candidates * MAX_ORDER,
        ).reshape(images, per_image, MAX_ORDER),
        totals=np.maximum(0, matches.lengths[..., None] - orders),
        lengths=matches.lengths,
        reference_lengths=closest,
    )


def bleu_of(matches: Matches) -> BleuResult:
    """Scores one candidate per image."""
    counts = count_matches(matches)
    counts = BleuCounts(
        counts.matches[:, 0],
        counts.totals[:, 0],
        counts.lengths[:, 0],
        counts.reference_lengths[:, 0],
    )
    everyone = np.ones(len(counts.lengths), np.int64)
    return BleuResult(
        corpus=counts.pooled(everyone).scores().tolist(),
        per_image=counts.scores().tolist(),
        counts=counts,
    )


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
    return bleu_of(match_words(candidates, references))
