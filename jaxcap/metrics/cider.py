"""CIDEr-D: how much a caption says what people say of this image and not of others.

Vedantam, Zitnick, Parikh 2015, "CIDEr: Consensus-based Image Description Evaluation",
https://arxiv.org/abs/1411.5726, section 3 and, for the D of CIDEr-D (clipping and the Gaussian
length penalty), section 8. It equals what coco-caption prints as "CIDEr".
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
    """CIDEr-D, in [0, 10]; papers print 100 times this."""

    mean: float
    per_image: list[float]


def cider_d_of(matches: Matches) -> Float[np.ndarray, "B N"]:
    """CIDEr-D of B·N candidates, each against the references of its image.

    Between a candidate c and a reference s it is 10 times the mean over n = 1 … 4 of
    exp(−Δ²/2σ²) · min(g(c), g(s))·g(s) / ‖g(c)‖‖g(s)‖, and a candidate's score is the mean over
    the references. g(·) has an element for each n-gram: how often it occurs (the count, not the
    paper's share: clipping compares counts) times log(images / images that it occurs in).
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

    # Candidates by columns: each n-gram of an image's references, and how much it weighs in them.
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
        # Lengths are counted in bigrams, as in the reference implementation: one less than words.
        delta = np.maximum(1, lengths) - np.maximum(1, matches.reference_lengths)
        similarity = np.exp(-(delta**2) / (2 * SIGMA**2)) * cosines.mean(axis=1)
        total = np.bincount(matches.reference_image, similarity, images)
        scores[:, n] = SCALE * total / np.diff(matches.reference_starts)
    return scores


def cider_of(matches: Matches) -> CiderResult:
    """Scores one candidate per image."""
    scores = cider_d_of(matches)[:, 0]
    return CiderResult(mean=float(scores.mean()), per_image=scores.tolist())


def cider_d(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> CiderResult:
    """Scores candidates against references.

    Document frequencies come from the references given, so a caption's score depends on which
    other images are scored with it, and one image alone scores 0.

    Args:
      candidates: one tokenised caption per image; it may be empty.
      references: one or more tokenised reference captions per image, in the same order.

    Returns:
      The mean over images and each image's score, in [0, 10].

    Raises:
      InputError: no images, an image without references, or lengths that differ.
    """
    return cider_of(match_words(candidates, references))
