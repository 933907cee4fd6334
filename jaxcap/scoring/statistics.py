"""Statistics per image, from which the scores of any sample of the images can be computed."""

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
    """The statistics of I images, in their order.

    Attributes:
      counts: the counts of BLEU for each image.
      rouge: `[I]`, ROUGE-L ×100.
      cider: `[I]`, CIDEr-D ×100, with the document frequencies of all I images.
    """

    counts: BleuCounts
    rouge: np.ndarray
    cider: np.ndarray

    def __len__(self) -> int:
        return len(self.rouge)

    def corpus(self) -> dict[str, float]:
        """Return the scores of all images by name, ×100, like `metrics.evaluate_captions`."""
        return {name: float(v[0]) for name, v in self.scores(np.ones((1, len(self)))).items()}

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return the scores of R samples of the images.

        BLEU is pooled over each sample. Document frequencies remain those of all images.

        Args:
          weights: `[R, I]`, how often each image occurs in each sample.

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
        """Return name to the scores of each image alone, `[I]`, ×100."""
        alone = self.counts.fractions()  # [I, 4]
        scores = {name: _PERCENT * alone[:, n] for n, name in enumerate(BLEU)}
        return scores | {"ROUGE-L": self.rouge, "CIDEr-D": self.cider}


def collect(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> Statistics:
    """Collect the statistics of tokenised captions.

    Args:
      candidates: one tokenised caption per image.
      references: one or more tokenised references per image, in the same order.

    Raises:
      InputError: there are no images, an image has no references, or a caption is a string.
    """
    return Statistics(
        counts=bleu(candidates, references).counts,
        rouge=np.array(rouge_l(candidates, references).per_image),
        cider=np.array(cider_d(candidates, references).per_image),
    )
