"""CIDEr-D: how much a caption says what people say of this image and not of others.

Vedantam, Zitnick, Parikh 2015, "CIDEr: Consensus-based Image Description Evaluation",
https://arxiv.org/abs/1411.5726, section 3 and, for the D of CIDEr-D (clipping and the Gaussian
length penalty), section 8. It equals what coco-caption prints as "CIDEr".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jaxcap.metrics.bleu import MAX_ORDER, check_pairs, ngrams

SIGMA = 6.0
SCALE = 10.0

_Gram = tuple[str, ...]


@dataclass(frozen=True)
class CiderResult:
    """CIDEr-D, in [0, 10]; papers print 100 times this."""

    mean: float
    per_image: list[float]


@dataclass(frozen=True)
class _Vector:
    """g(c) of the paper: the tf-idf weights of a caption's n-grams, for each order."""

    weights: list[dict[_Gram, float]]
    norms: list[float]
    length: int  # in bigrams: the reference implementation's, one less than the words


def _document_frequency(references: Sequence[Sequence[Sequence[str]]]) -> Counter[_Gram]:
    """In how many images' references each n-gram occurs."""
    frequency: Counter[_Gram] = Counter()
    for refs in references:
        seen: set[_Gram] = set()
        for reference in refs:
            for order in range(1, MAX_ORDER + 1):
                seen.update(ngrams(reference, order))
        frequency.update(seen)
    return frequency


def _vector(tokens: Sequence[str], frequency: Counter[_Gram], images: int) -> _Vector:
    weights = [
        {
            # Term counts, not the paper's term frequencies: clipping compares counts.
            gram: count * (math.log(images) - math.log(max(1, frequency[gram])))
            for gram, count in ngrams(tokens, order).items()
        }
        for order in range(1, MAX_ORDER + 1)
    ]
    norms = [math.sqrt(sum(w * w for w in each.values())) for each in weights]
    return _Vector(weights, norms, max(0, len(tokens) - 1))


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """CIDEr-D of one candidate and one reference, without the factor 10: the mean over n of
    exp(−Δ²/2σ²) · min(g(c), g(s))·g(s) / ‖g(c)‖‖g(s)‖."""
    total = 0.0
    for order in range(MAX_ORDER):
        norm = candidate.norms[order] * reference.norms[order]
        if norm == 0:
            continue
        theirs = reference.weights[order]
        overlap = sum(
            min(weight, theirs[gram]) * theirs[gram]
            for gram, weight in candidate.weights[order].items()
            if gram in theirs
        )
        total += overlap / norm
    delta = candidate.length - reference.length
    return math.exp(-(delta**2) / (2 * SIGMA**2)) * total / MAX_ORDER


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
    check_pairs(candidates, references)
    images = len(references)
    frequency = _document_frequency(references)
    scores = []
    for candidate, refs in zip(candidates, references, strict=True):
        ours = _vector(candidate, frequency, images)
        each = [_similarity(ours, _vector(r, frequency, images)) for r in refs]
        scores.append(SCALE * sum(each) / len(each))
    return CiderResult(mean=sum(scores) / images, per_image=scores)
