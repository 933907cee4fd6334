"""Measures of diversity: how varied captions are, whether or not they are correct."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxcap.messages.errors import InputError
from jaxcap.metrics.checks import check_tokenised


@dataclass(frozen=True)
class Diversity:
    """The diversity of a set of captions, one per image.

    Fractions depend on the number of captions, so only sets of the same images are comparable.

    Attributes:
      distinct: distinct-1 and distinct-2, the numbers of different words and of different bigrams,
        each divided by the number of all words (Li et al. 2016, "A Diversity-Promoting Objective
        Function for Neural Conversation Models", https://arxiv.org/abs/1510.03055, section 5.3).
      vocabulary: the number of different words.
      unique: the number of different captions, divided by the number of captions.
      novel: the fraction of captions that do not occur in the training set; None if unknown.
      length: the mean number of words.
      length_sd: the standard deviation of the number of words.
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
    """Measure the diversity of tokenised captions.

    Args:
      captions: one or more.
      training: the training captions, tokenised and joined by spaces.

    Raises:
      InputError: there are no captions, or a caption is a string.
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
