"""Caption metrics in plain Python: raw captions in, the numbers papers print out.

The protocol is coco-caption's: Penn Treebank tokens without punctuation (`tokenize`), then
corpus BLEU, ROUGE-L and CIDEr-D. No JAX, no Java: `java_scores` adds METEOR and SPICE where
there is one. `reward.CiderReward` is the same CIDEr-D for training.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxcap.errors import InputError
from jaxcap.metrics.bleu import BleuCounts, BleuResult, bleu, bleu_of
from jaxcap.metrics.cider import CiderResult, cider_d, cider_of
from jaxcap.metrics.java import Measured, Unavailable, java_scores
from jaxcap.metrics.ngrams import MAX_ORDER, match_words
from jaxcap.metrics.rouge import RougeResult, rouge_l
from jaxcap.metrics.scoring_units import ScoringUnits, joined, splitter
from jaxcap.metrics.tokenize import tokenize

__all__ = [
    "BleuCounts",
    "BleuResult",
    "CiderResult",
    "Measured",
    "RougeResult",
    "Scores",
    "ScoringUnits",
    "Unavailable",
    "bleu",
    "cider_d",
    "evaluate_captions",
    "java_scores",
    "joined",
    "rouge_l",
    "splitter",
    "tokenize",
]

_PERCENT = 100.0


@dataclass(frozen=True)
class Scores:
    """Scores ×100, as papers print them: BLEU-4 in [0, 100], CIDEr-D 0.52 as 52.0.

    The keys are "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L" and "CIDEr-D".
    """

    corpus: dict[str, float]
    """Of the whole set. Corpus BLEU is not the mean of the images' BLEU."""
    per_image: dict[Any, dict[str, float]]
    """Of each image, by its id, in the order of `candidates`."""
    bleu_counts: BleuCounts
    """Of each image, in the same order: what corpus BLEU pools, for resampling images."""


def _few(ids: Iterable[Hashable], limit: int = 3) -> str:
    names = sorted(str(each) for each in ids)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _check(candidates: Mapping[Any, str], references: Mapping[Any, Sequence[str]]) -> None:
    if not candidates and not references:
        raise InputError("There are no captions to score: expected one or more images, found 0.")
    if without := references.keys() - candidates.keys():
        raise InputError(
            f"{len(without)} of {len(references)} images have references but no caption: "
            f"{_few(without)}. Caption every image of the split, or score against its part only."
        )
    if unknown := candidates.keys() - references.keys():
        raise InputError(
            f"{len(unknown)} of {len(candidates)} captioned images have no references: "
            f"{_few(unknown)}. Check that captions and references are of the same split."
        )
    if bare := [each for each, refs in references.items() if not refs]:
        raise InputError(f"{len(bare)} images have an empty list of references: {_few(bare)}.")
    if single := [each for each, refs in references.items() if isinstance(refs, str)]:
        raise InputError(
            "References must be a list of captions for each image; found a single string for "
            f"{_few(single)}."
        )


def evaluate_captions(
    candidates: Mapping[Any, str],
    references: Mapping[Any, Sequence[str]],
    *,
    units: ScoringUnits = "words",
) -> Scores:
    """Tokenises and scores one generated caption per image.

    Args:
      candidates: image id -> the generated caption, as plain text (no start or end tokens). An
        empty caption scores 0.
      references: image id -> the captions people wrote, as plain text, one or more.
      units: what is counted. Only scores by words compare with those of papers on English.

    Returns:
      Corpus and per-image scores, ×100.

    Raises:
      InputError: there are no images, the two sets of ids differ, or an image has no references.
    """
    _check(candidates, references)
    ids = list(candidates)
    split = splitter(units)
    hypotheses = [split(candidates[each]) for each in ids]
    targets = [[split(caption) for caption in references[each]] for each in ids]

    matches = match_words(hypotheses, targets)
    bleu_scores = bleu_of(matches)
    rouge_scores = rouge_l(hypotheses, targets)
    cider_scores = cider_of(matches)

    def named(bleus: Sequence[float], rouge: float, cider: float) -> dict[str, float]:
        scores = {f"BLEU-{n}": _PERCENT * bleus[n - 1] for n in range(1, MAX_ORDER + 1)}
        return scores | {"ROUGE-L": _PERCENT * rouge, "CIDEr-D": _PERCENT * cider}

    return Scores(
        corpus=named(bleu_scores.corpus, rouge_scores.mean, cider_scores.mean),
        per_image={
            each: named(b, r, c)
            for each, b, r, c in zip(
                ids,
                bleu_scores.per_image,
                rouge_scores.per_image,
                cider_scores.per_image,
                strict=True,
            )
        },
        bleu_counts=bleu_scores.counts,
    )
