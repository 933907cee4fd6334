"""What scores mean: what people reach on the same images, and what one sentence does for all.

- People: each reference of an image, in turn, against the image's others. A model is scored
  against all references, and more references give a higher BLEU; so the model's captions are
  scored here as well, in the same turns against the same others.
- The best constant caption: of all references, the one that scores highest when it is given to
  every image. The search is exhaustive and exact.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxcap.errors import InputError
from jaxcap.metrics import BleuCounts
from jaxcap.metrics.checks import check_pairs
from jaxcap.metrics.cider import SIGMA
from jaxcap.scoring.statistics import BLEU, collect

MAX_ORDER = len(BLEU)

Tokens = Sequence[str]
Feature = tuple[tuple[str, ...], int]
"""An n-gram and a number k: present in a caption that holds the n-gram k times or more."""


@dataclass(frozen=True)
class People:
    """Scores against one reference fewer, by name, ×100, averaged over the turns.

    Attributes:
      people: of the reference left out.
      captions: of the model's captions, against the same references.
      images: images with two references or more; the others cannot take part.
    """

    people: dict[str, float]
    captions: dict[str, float]
    images: int


def people(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> People:
    """Scores each reference against the others of its image.

    In turn t = 0, 1, … of as many as any image has references, the reference number t modulo k of
    an image with k is scored against its k − 1 others, over the whole corpus; the scores of the
    turns are averaged.

    Args:
      candidates: the model's captions, tokenised, one per image.
      references: tokenised.

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
      caption: its tokens.
      scores: name to score, ×100.
    """

    caption: list[str]
    scores: dict[str, float]


def best_constant(references: Sequence[Sequence[Tokens]], metric: str = "CIDEr-D") -> Constant:
    """Finds the reference that, given to every image, scores highest.

    Args:
      references: tokenised, one or more per image.
      metric: "CIDEr-D" or "BLEU-4".
    """
    check_pairs(references, references)
    score = {"CIDEr-D": cider_of_constant, "BLEU-4": bleu_of_constant}[metric](references)
    # Different captions of equal words come once; sorted, so that ties always fall the same way.
    distinct = sorted({tuple(reference) for refs in references for reference in refs})
    best = max(distinct, key=score)
    return Constant(list(best), collect([best] * len(references), references).corpus())


def _features(tokens: Tokens) -> dict[int, Counter[tuple[str, ...]]]:
    """How often each n-gram occurs, for each n."""
    return {
        n: Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        for n in range(1, MAX_ORDER + 1)
    }


def bleu_of_constant(references: Sequence[Sequence[Tokens]]) -> Callable[[Tokens], float]:
    """Returns a function that gives the corpus BLEU-4, a fraction, of one caption for all images.

    A count clipped at m is the sum over k = 1 … of [count ≥ k][m ≥ k], so the clipped matches of
    a caption, over all images, are a sum over its features of the images that have them.
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
    """Returns a function that gives the mean CIDEr-D / 10 of one caption for all images.

    Clipping as above makes the product of two captions' weights a sum over features; what the
    references of one length contribute to it is added up once for all captions, since only their
    length and the caption's decide the Gaussian penalty (Vedantam et al. 2015, section 8).
    """
    frequency: Counter[tuple[str, ...]] = Counter()
    for refs in references:
        frequency.update({g for r in refs for grams in _features(r).values() for g in grams})
    idf = {gram: math.log(len(references) / count) for gram, count in frequency.items()}
    unseen = math.log(len(references))

    def norm(grams: Counter[tuple[str, ...]]) -> float:
        return math.sqrt(sum((count * idf.get(gram, unseen)) ** 2 for gram, count in grams.items()))

    # Feature to (length of reference, in bigrams) to the weight of all references of that length.
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
        """The weight of a feature in a caption of this length; common ones are asked for often."""
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
