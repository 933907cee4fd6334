"""CIDEr-D: TF-IDF similarity of a caption and its references.

Vedantam, Zitnick, Parikh 2015, "CIDEr: Consensus-based Image Description Evaluation",
https://arxiv.org/abs/1411.5726, section 3 and, for the D of CIDEr-D (clipping and the Gaussian
length penalty), section 8. Scores are 100 times coco-caption's "CIDEr".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxcap.metrics.ngrams import MAX_ORDER, Matches, match_words

SIGMA = 6.0
SCALE = 10.0


@dataclass(frozen=True)
class CiderResult:
    """CIDEr-D, ×100: the mean over images, and each image. The largest possible score is 1000."""

    mean: float
    per_image: list[float]


def cider_d_out_of_10(matches: Matches) -> Float[np.ndarray, "B N"]:
    """Compute CIDEr-D in [0, 10] of B·N candidates, each against the references of its image.

    The score of a candidate c is the mean over its references s of 10 times the mean over
    n = 1 … 4 of exp(−Δ²/2σ²) · min(g(c), g(s))·g(s) / ‖g(c)‖‖g(s)‖. g(·) has one element per
    n-gram: its count times log(images / images whose references contain it). The paper uses
    relative frequencies instead of counts, but clipping compares counts.
    """
    images, per_image = matches.shape
    references = len(matches.reference_lengths)

    def rarity(frequency: np.ndarray) -> np.ndarray:
        return np.log(matches.images) - np.log(np.maximum(1, frequency))

    def norms(owner: np.ndarray, order: np.ndarray, weight: np.ndarray, owners: int) -> np.ndarray:
        squares = np.bincount(owner * MAX_ORDER + order, weight**2, owners * MAX_ORDER)
        return np.sqrt(squares).reshape(owners, MAX_ORDER)

    ours = matches.count * rarity(matches.frequency)
    theirs = matches.entry_count * rarity(matches.entry_frequency)
    our_norms = norms(matches.owner, matches.order, ours, images * per_image)
    their_norms = norms(matches.entry_reference, matches.entry_order, theirs, references)

    # [N, columns]: the weight in each candidate of each n-gram of its image's references.
    weights = np.zeros((per_image, len(matches.most)))
    hit = matches.column >= 0
    weights[matches.owner[hit] % per_image, matches.column[hit]] = ours[hit]
    segment = matches.entry_reference * MAX_ORDER + matches.entry_order
    scores = np.empty((images, per_image))
    for n in range(per_image):
        products = np.minimum(weights[n, matches.entry_column], theirs) * theirs
        overlap = np.bincount(segment, products, references * MAX_ORDER)
        norm = our_norms[n::per_image][matches.reference_image] * their_norms  # [R, 4]
        cosines = overlap.reshape(norm.shape) / np.where(norm == 0, np.inf, norm)
        lengths = matches.lengths[matches.reference_image, n]
        # Like coco-caption, measure lengths in bigrams, which are one fewer than words.
        delta = np.maximum(1, lengths) - np.maximum(1, matches.reference_lengths)
        similarity = np.exp(-(delta**2) / (2 * SIGMA**2)) * cosines.mean(axis=1)
        total = np.bincount(matches.reference_image, similarity, images)
        scores[:, n] = SCALE * total / np.diff(matches.reference_starts)
    return scores


def cider_of(matches: Matches) -> CiderResult:
    """Score matches with one candidate per image (N = 1)."""
    scores = cider_d_out_of_10(matches)[:, 0]
    return CiderResult(mean=100 * float(scores.mean()), per_image=(100 * scores).tolist())


def cider_d(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> CiderResult:
    """Score candidates against references.

    Document frequencies come from the given references. So the score of a caption depends on the
    other images, and a single image scores 0.

    Args:
      candidates: one tokenised caption per image; it may be empty.
      references: one or more tokenised reference captions per image, in the same order.

    Returns:
      The mean over images and the score of each image, ×100.

    Raises:
      InputError: there are no images, an image has no references, the numbers of images differ, or
        a caption is a string instead of a sequence of tokens.
    """
    return cider_of(match_words(candidates, references))
