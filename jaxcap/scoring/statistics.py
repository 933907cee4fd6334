"""What each image contributes to a score, so that the scores of any choice of images follow
without scoring again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxcap.metrics import BleuCounts, bleu, cider_d, rouge_l

BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
METRICS = (*BLEU, "ROUGE-L", "CIDEr-D")
_PERCENT = 100.0


@dataclass(frozen=True)
class Statistics:
    """Of each of I images, in their order.

    Attributes:
      counts: what BLEU pools.
      rouge: `[I]`, ROUGE-L in percent.
      cider: `[I]`, CIDEr-D in percent, with the document frequencies of all I images.
    """

    counts: BleuCounts
    rouge: np.ndarray
    cider: np.ndarray

    def __len__(self) -> int:
        return len(self.rouge)

    def corpus(self) -> dict[str, float]:
        """The scores of all images, by name, ×100: what `metrics.evaluate_captions` gives."""
        return {name: float(v[0]) for name, v in self.scores(np.ones((1, len(self)))).items()}

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The scores of R choices of images.

        BLEU is pooled anew for each choice. Document frequencies stay those of all images: a
        choice is scored by the measure of the whole set.

        Args:
          weights: `[R, I]`, how often each image occurs in each choice.

        Returns:
          Name to scores `[R]`, ×100.
        """
        pooled = self.counts.pooled(weights).fractions()  # [R, 4]
        size = weights.sum(axis=1)
        scores = {name: _PERCENT * pooled[:, n] for n, name in enumerate(BLEU)}
        scores["ROUGE-L"] = weights @ self.rouge / size
        scores["CIDEr-D"] = weights @ self.cider / size
        return scores

    def per_image(self) -> dict[str, np.ndarray]:
        """Name to the scores of each image alone, `[I]`, ×100."""
        alone = self.counts.fractions()  # [I, 4]
        scores = {name: _PERCENT * alone[:, n] for n, name in enumerate(BLEU)}
        return scores | {"ROUGE-L": self.rouge, "CIDEr-D": self.cider}


def collect(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> Statistics:
    """Scores tokenised captions.

    Args:
      candidates: one tokenised caption per image.
      references: one or more tokenised references per image, in the same order.

    Raises:
      InputError: no images, or an image without references.
    """
    return Statistics(
        counts=bleu(candidates, references).counts,
        rouge=np.array(rouge_l(candidates, references).per_image),
        cider=np.array(cider_d(candidates, references).per_image),
    )
