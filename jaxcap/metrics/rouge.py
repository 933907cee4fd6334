"""ROUGE-L: F-score of the longest common subsequence of a caption and its references.

Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", https://aclanthology.org/W04-1013,
section 3, with coco-caption's β = 1.2. With several references, coco-caption takes the best
precision and the best recall over all of them, possibly from different references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxcap.metrics.checks import check_pairs

BETA = 1.2


@dataclass(frozen=True)
class RougeResult:
    """ROUGE-L, ×100: the mean over images, and each image."""

    mean: float
    per_image: list[float]


def _common_subsequences(
    candidate: Sequence[str], references: Sequence[Sequence[str]]
) -> list[int]:
    """Return the length of the longest common subsequence with each reference.

    Hyyrö 2004, "Bit-Parallel LCS-length Computation Revisited": a row of the table of lengths is
    an integer, bit i of which is 0 where the length grows at the candidate's word i; a word of
    the reference turns one row into the next by one addition. Python's integers have as many bits
    as the candidate has words.
    """
    places: dict[str, int] = {}  # of each word: the bits where it stands
    for i, word in enumerate(candidate):
        places[word] = places.get(word, 0) | 1 << i
    start = (1 << len(candidate)) - 1
    lengths = []
    for reference in references:
        row = start
        for word in reference:
            if word in places:
                matched = row & places[word]
                row = (row + matched) | (row - matched)
        # Mask the bits that were carried past the end of the candidate.
        lengths.append(len(candidate) - (row & start).bit_count())
    return lengths


def _score(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    # coco-caption splits text at spaces, so an empty caption has one empty word there. It matches
    # an empty reference, and no length is 0.
    candidate = list(candidate) or [""]
    filled = [list(reference) or [""] for reference in references]
    common = _common_subsequences(candidate, filled)
    precision = max(common) / len(candidate)
    recall = max(c / len(r) for c, r in zip(common, filled, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def rouge_l(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> RougeResult:
    """Score candidates against references.

    Args:
      candidates: one tokenised caption per image; it may be empty.
      references: one or more tokenised reference captions per image, in the same order.

    Returns:
      The mean over images and the score of each image, ×100.

    Raises:
      InputError: there are no images, an image has no references, the numbers of images differ, or
        a caption is a string instead of a sequence of tokens.
    """
    check_pairs(candidates, references)
    scores = [_score(c, refs) for c, refs in zip(candidates, references, strict=True)]
    mean = 100 * (sum(scores) / len(scores))
    return RougeResult(mean=mean, per_image=[100 * score for score in scores])
