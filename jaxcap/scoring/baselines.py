"""Baselines on the same images: human captions, and the best constant caption.

- People: each reference of an image in turn is scored against the other references. More
  references give a higher BLEU, so the captions of the model are scored here as well, in the same
  turns against the same references.
- The best constant caption: the reference that scores highest when it captions every image. The
  search is exhaustive and exact.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxcap.messages.errors import InputError
from jaxcap.metrics import BleuCounts
from jaxcap.metrics.checks import check_pairs
from jaxcap.metrics.cider import SIGMA
from jaxcap.scoring.statistics import BLEU, collect

MAX_ORDER = len(BLEU)

Tokens = Sequence[str]
Feature = tuple[tuple[str, ...], int]
"""An n-gram and a number k. A caption has the feature if it holds the n-gram at least k times."""


@dataclass(frozen=True)
class People:
    """Scores against all references but one, by name, ×100, averaged over the turns.

    Attributes:
      people: scores of the reference that was left out.
      captions: scores of the model's captions against the same references.
      images: the number of images with at least two references; only these are scored.
    """

    people: dict[str, float]
    captions: dict[str, float]
    images: int


def people(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> People:
    """Score each reference against the other references of its image.

    The number of turns is the largest number of references of any image. In turn t, reference
    t mod k of each image with k references is scored against the other k − 1, over the whole
    corpus. The scores of all turns are averaged.

    Args:
      candidates: the model's captions, tokenised, one per image.
      references: tokenised references of each image.

    Raises:
      InputError: no image has two references.
    """
    chosen = [i for i, refs in enumerate(references) if len(refs) > 1]
    if not chosen:
        raise InputError(
            "--baselines: every image has a single reference; scoring people needs two or more."
        )
    turns = max(len(references[i]) for i in chosen)
    sums: dict[str, dict[str, float]] = {
        "people": defaultdict(float),
        "captions": defaultdict(float),
    }
    for turn in range(turns):
        left_out, others = [], []
        for i in chosen:
            k = turn % len(references[i])
            left_out.append(references[i][k])
            others.append([*references[i][:k], *references[i][k + 1 :]])
        for who, texts in (("people", left_out), ("captions", [candidates[i] for i in chosen])):
            for name, value in collect(texts, others).corpus().items():
                sums[who][name] += value / turns
    return People(dict(sums["people"]), dict(sums["captions"]), len(chosen))


@dataclass(frozen=True)
class Constant:
    """One caption for every image.

    Attributes:
      caption: the tokens of the caption.
      scores: name to score, ×100.
    """

    caption: list[str]
    scores: dict[str, float]


def best_constant(references: Sequence[Sequence[Tokens]], metric: str = "CIDEr-D") -> Constant:
    """Find the reference that scores highest when it captions every image.

    Args:
      references: tokenised, one or more per image.
      metric: "CIDEr-D" or "BLEU-4".

    Raises:
      InputError: there are no images, an image has no references, or a caption is a string.
    """
    check_pairs(references, references)
    score = {"CIDEr-D": cider_of_constant, "BLEU-4": bleu_of_constant}[metric](references)
    # Score captions of equal tokens once; sort them so that ties are broken deterministically.
    distinct = sorted({tuple(reference) for refs in references for reference in refs})
    best = max(distinct, key=score)
    return Constant(list(best), collect([best] * len(references), references).corpus())


def _features(tokens: Tokens) -> dict[int, Counter[tuple[str, ...]]]:
    """Count the n-grams of each order n."""
    return {
        n: Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        for n in range(1, MAX_ORDER + 1)
    }


def bleu_of_constant(references: Sequence[Sequence[Tokens]]) -> Callable[[Tokens], float]:
    """Return a function from a caption to its corpus BLEU-4 in [0, 1] if it captions all images.

    A count clipped at m is the sum over k = 1, 2, … of [count ≥ k][m ≥ k]. So the clipped matches
    of a caption over all images are the sum, over its features, of the images that have them.
    """
    holders: Counter[Feature] = Counter()
    for refs in references:
        limit: Counter[tuple[str, ...]] = Counter()
        for reference in refs:
            for grams in _features(reference).values():
                limit |= grams
        holders.update((gram, k) for gram, m in limit.items() for k in range(1, m + 1))
    reference_lengths = [{len(reference) for reference in refs} for refs in references]
    closest: dict[int, int] = {}

    def score(caption: Tokens) -> float:
        size, images = len(caption), len(references)
        if size not in closest:
            closest[size] = sum(
                min(each, key=lambda r: (abs(r - size), r)) for each in reference_lengths
            )
        matches = [
            sum(holders[gram, k] for gram, m in grams.items() for k in range(1, m + 1))
            for grams in _features(caption).values()
        ]
        totals = [images * max(0, size - order) for order in range(MAX_ORDER)]
        lengths = np.array(images * size), np.array(closest[size])
        counts = BleuCounts(np.array(matches), np.array(totals), *lengths)
        return float(counts.fractions()[-1])

    return score


def cider_of_constant(references: Sequence[Sequence[Tokens]]) -> Callable[[Tokens], float]:
    """Return a function from a caption to its mean CIDEr-D in [0, 1] if it captions all images.

    With the clipping above, the product of the weights of two captions is a sum over features. The
    Gaussian penalty depends only on the two lengths (Vedantam et al. 2015, section 8). So the
    contributions of all references of one length are summed once.
    """
    frequency: Counter[tuple[str, ...]] = Counter()
    for refs in references:
        frequency.update({g for r in refs for grams in _features(r).values() for g in grams})
    idf = {gram: math.log(len(references) / count) for gram, count in frequency.items()}
    unseen = math.log(len(references))

    def norm(grams: Counter[tuple[str, ...]]) -> float:
        return math.sqrt(sum((count * idf.get(gram, unseen)) ** 2 for gram, count in grams.items()))

    # Feature to reference length in bigrams to the summed weight of all references of that length.
    weight: dict[Feature, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for refs in references:
        for reference in refs:
            length = max(0, len(reference) - 1)
            for grams in _features(reference).values():
                if (size := norm(grams)) == 0:
                    continue
                share = size * len(refs) * len(references) * MAX_ORDER
                for gram, count in grams.items():
                    for k in range(1, count + 1):
                        weight[gram, k][length] += idf[gram] ** 2 * count / share

    summed: dict[tuple[Feature, int], float] = {}

    def of_feature(feature: Feature, length: int) -> float:
        """Return the weight of a feature in a caption of this length, from a cache if possible."""
        key = feature, length
        if key not in summed:
            summed[key] = sum(
                (
                    math.exp(-((length - other) ** 2) / (2 * SIGMA**2)) * value
                    for other, value in weight.get(feature, {}).items()
                ),
                0.0,
            )
        return summed[key]

    def score(caption: Tokens) -> float:
        length = max(0, len(caption) - 1)
        total = 0.0
        for grams in _features(caption).values():
            if (size := norm(grams)) > 0:
                features = ((gram, k) for gram, m in grams.items() for k in range(1, m + 1))
                total += sum(of_feature(feature, length) for feature in features) / size
        return total

    return score
