"""ROUGE-L: the longest common subsequence of a caption and its references.

Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", https://aclanthology.org/W04-1013,
section 3, with coco-caption's β = 1.2 and its reading of several references: the best precision
and the best recall, each over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxcap.metrics.bleu import check_pairs

BETA = 1.2


@dataclass(frozen=True)
class RougeResult:
    """ROUGE-L, in [0, 1]."""

    mean: float
    per_image: list[float]


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, one row of the table at a time."""
    row = [0] * (len(b) + 1)
    for token in a:
        diagonal = 0  # the entry up and to the left
        for j, other in enumerate(b, start=1):
            above = row[j]
            row[j] = diagonal + 1 if token == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def _score(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    # The reference implementation splits text at spaces, so to it an empty caption has one empty
    # word: it matches an empty reference, and nothing divides by zero.
    candidate = candidate or [""]
    filled = [reference or [""] for reference in references]
    common = [_common_subsequence(candidate, r) for r in filled]
    precision = max(common) / len(candidate)
    recall = max(c / len(r) for c, r in zip(common, filled, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def rouge_l(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> RougeResult:
    """Scores candidates against references.

    Args:
      candidates: one tokenised caption per image; it may be empty.
      references: one or more tokenised reference captions per image, in the same order.

    Returns:
      The mean over images and each image's score, as fractions.

    Raises:
      InputError: no images, an image without references, or lengths that differ.
    """
    check_pairs(candidates, references)
    scores = [_score(c, refs) for c, refs in zip(candidates, references, strict=True)]
    return RougeResult(mean=sum(scores) / len(scores), per_image=scores)
