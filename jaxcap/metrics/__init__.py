"""Caption metrics in plain Python, with the scores that papers report.

The protocol is coco-caption's: Penn Treebank tokens without punctuation (`tokenize`), then corpus
BLEU, ROUGE-L and CIDEr-D. These need neither JAX nor Java; `java_scores` adds METEOR and SPICE if
Java is installed. All scores are ×100, as papers print them. `reward.CiderReward` computes the same
CIDEr-D for training, on its own scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxcap.metrics.bleu import BleuCounts, BleuResult, bleu, bleu_of
from jaxcap.metrics.checks import check_texts
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


@dataclass(frozen=True)
class Scores:
    """Scores ×100, as papers print them: BLEU-4 in [0, 100], CIDEr-D 0.52 as 52.0.

    The keys are "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L" and "CIDEr-D".
    """

    corpus: dict[str, float]
    """Of the whole set. Corpus BLEU is not the mean of the BLEU of the images."""
    per_image: dict[Any, dict[str, float]]
    """Of each image, by its id, in the order of `candidates`."""
    bleu_counts: BleuCounts
    """The counts of each image, in the same order. Corpus BLEU pools them."""


def evaluate_captions(
    candidates: Mapping[Any, str],
    references: Mapping[Any, Sequence[str]],
    *,
    units: ScoringUnits = "words",
) -> Scores:
    """Tokenise and score one generated caption per image.

    Args:
      candidates: image id to the generated caption, as plain text without start or end tokens. An
        empty caption scores 0.
      references: image id to the human captions, as plain text, one or more.
      units: count words or characters. Only scores by words are comparable to those of papers on
        English captions.

    Returns:
      Corpus and per-image scores, ×100.

    Raises:
      InputError: there are no images, the two sets of ids differ, an image has no references, or a
        caption is not a string.
    """
    check_texts(candidates, references)
    ids = list(candidates)
    split = splitter(units)
    hypotheses = [split(candidates[each]) for each in ids]
    targets = [[split(caption) for caption in references[each]] for each in ids]

    matches = match_words(hypotheses, targets)
    bleu_scores = bleu_of(matches)
    rouge_scores = rouge_l(hypotheses, targets)
    cider_scores = cider_of(matches)

    def named(bleus: Sequence[float], rouge: float, cider: float) -> dict[str, float]:
        scores = {f"BLEU-{n}": bleus[n - 1] for n in range(1, MAX_ORDER + 1)}
        return scores | {"ROUGE-L": rouge, "CIDEr-D": cider}

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
