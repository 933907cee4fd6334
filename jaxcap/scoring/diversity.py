"""Whether a model says many things or one thing many times: no matter how well."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxcap.errors import InputError
from jaxcap.metrics.checks import check_tokenised


@dataclass(frozen=True)
class Diversity:
    """Of a set of captions, one per image. Shares depend on how many captions there are: compare
    sets of the same images only.

    Attributes:
      distinct: distinct-1 and distinct-2: how many different words, and pairs of neighbouring
        words, there are, each divided by the number of all words (Li et al. 2016, "A
        Diversity-Promoting Objective Function for Neural Conversation Models",
        https://arxiv.org/abs/1510.03055, section 5.3).
      vocabulary: how many different words.
      unique: how many different captions there are, divided by the number of captions.
      novel: the share of captions that are not in the training set word for word, or None.
      length: the mean number of words.
      length_sd: their standard deviation over the captions.
    """

    distinct: tuple[float, float]
    vocabulary: int
    unique: float
    novel: float | None
    length: float
    length_sd: float


def measure(
    captions: Sequence[Sequence[str]], training: Collection[str] | None = None
) -> Diversity:
    """Measures tokenised captions.

    Args:
      captions: one or more.
      training: the training captions, tokenised and joined by spaces.

    Raises:
      InputError: there are no captions.
    """
    if not captions:
        raise InputError("There are no captions to measure: expected one or more, found 0.")
    check_tokenised(captions)
    texts = [" ".join(tokens) for tokens in captions]
    words = {token for tokens in captions for token in tokens}
    pairs = {pair for tokens in captions for pair in pairwise(tokens)}
    total = sum(len(tokens) for tokens in captions)
    mean = total / len(captions)
    variance = sum((len(tokens) - mean) ** 2 for tokens in captions) / len(captions)
    return Diversity(
        distinct=(len(words) / total, len(pairs) / total) if total else (0.0, 0.0),
        vocabulary=len(words),
        unique=len(set(texts)) / len(texts),
        novel=None if training is None else sum(t not in training for t in texts) / len(texts),
        length=mean,
        length_sd=math.sqrt(variance),
    )
