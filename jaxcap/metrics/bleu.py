"""BLEU of a set of captions and of each caption.

Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation",
https://aclanthology.org/P02-1040. Counts are pooled over all images before they are divided,
the reference length is the closest one, and nothing is smoothed. These are the conventions of
coco-caption (https://github.com/tylin/coco-caption), and the scores are equal to its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from jaxcap.metrics.ngrams import MAX_ORDER, Matches, match_words

# coco-caption adds these to avoid division by zero. They matter only for single captions and very
# small sets: without a matching four-gram, BLEU-4 is about 1e-4 times the other factors, not 0.
_TINY = 1e-15
_SMALL = 1e-9


@dataclass(frozen=True)
class BleuCounts:
    """The sufficient statistics of BLEU, for captions or for sets of captions."""

    matches: Num[np.ndarray, "*captions 4"]
    """Clipped n-gram matches."""
    totals: Num[np.ndarray, "*captions 4"]
    """The number of n-grams in the candidate."""
    lengths: Num[np.ndarray, "*captions"]
    """c in the paper."""
    reference_lengths: Num[np.ndarray, "*captions"]
    """r in the paper: the length of the reference closest to each candidate in length."""

    def pooled(self, weights: Num[np.ndarray, "*sets images"]) -> BleuCounts:
        """Sum over images, each `weights` times, such as in a bootstrap sample."""
        fields = (self.matches, self.totals, self.lengths, self.reference_lengths)
        return BleuCounts(*(np.asarray(weights @ field) for field in fields))

    def fractions(self) -> Float[np.ndarray, "*captions 4"]:
        """Compute BLEU-1 to BLEU-4 in [0, 1]: BP · (p₁ · … · pₙ)^(1/n).

        These are equations 2 and 3 of the paper with uniform weights.
        """
        ratio = (self.lengths + _TINY) / (self.reference_lengths + _SMALL)
        brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
        precisions = (self.matches + _TINY) / (self.totals + _SMALL)
        products = np.cumprod(precisions, axis=-1)
        return brevity[..., None] * products ** (1 / np.arange(1, MAX_ORDER + 1))


@dataclass(frozen=True)
class BleuResult:
    """BLEU-1 to BLEU-4, ×100."""

    corpus: list[float]
    """`[4]`: of all captions, from pooled counts. It is not a mean over images."""
    per_image: list[list[float]]
    """`[images][4]`: of each caption alone, for inspection rather than for reports."""
    counts: BleuCounts
    """`[images]`: the counts that were pooled."""


def count_matches(matches: Matches) -> BleuCounts:
    """Count the matches of B·N candidates; the counts have shape `[B, N, …]`."""
    images, per_image = matches.shape
    candidates = images * per_image
    hit = matches.column >= 0
    clipped = np.minimum(matches.count[hit], matches.most[matches.column[hit]])
    orders = np.arange(MAX_ORDER)
    # The closest reference, and the shorter of two at equal distance: rank by twice the distance,
    # plus one if the reference is longer.
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
    """Score matches with one candidate per image (N = 1)."""
    counts = count_matches(matches)
    counts = BleuCounts(
        counts.matches[:, 0],
        counts.totals[:, 0],
        counts.lengths[:, 0],
        counts.reference_lengths[:, 0],
    )
    everyone = np.ones(len(counts.lengths), np.int64)
    return BleuResult(
        corpus=(100 * counts.pooled(everyone).fractions()).tolist(),
        per_image=(100 * counts.fractions()).tolist(),
        counts=counts,
    )


def bleu(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> BleuResult:
    """Score candidates against references.

    Args:
      candidates: one tokenised caption per image; it may be empty.
      references: one or more tokenised reference captions per image, in the same order.

    Returns:
      Corpus and per-image BLEU-1 to BLEU-4, ×100.

    Raises:
      InputError: there are no images, an image has no references, the numbers of images differ, or
        a caption is a string instead of a sequence of tokens.
    """
    return bleu_of(match_words(candidates, references))
