"""Recognised words for captions without an image, as a recogniser would have given them.

Captions whose photographs are not at hand teach a captioner new words and what is said about them,
if their content words stand in for the image: Hendricks et al. 2016, "Deep Compositional
Captioning" (https://arxiv.org/abs/1511.05284), and Venugopalan et al. 2017, "Captioning Images
with Diverse Objects" (https://arxiv.org/abs/1606.07770), train a language model on text beside a
recogniser. Here both meet in one decoder that reads recognised words, so the words of a caption are
thinned and disturbed, or the decoder would learn to trust every word that it is given.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jaxcap.data.captions import Captions
from jaxcap.model.recogniser.words import RecognisedWords

KEPT = 0.6
"""The probability that a word of the captions is recognised."""
TRUE_PROBABILITIES = (0.2, 1.0)
"""The probabilities that recognised words are given, uniformly."""
FALSE_WORDS = 2.0
"""The mean number of false words; the number follows Poisson's distribution."""
FALSE_PROBABILITIES = (0.05, 0.6)
"""The probabilities that false words are given, uniformly."""
FALSE_EXPONENT = 0.5
"""False words are drawn by their frequency in the captions to this power."""

# Sets these random numbers apart from those of augmentation, which share seed, step and row.
_STREAM = 2**32 - 1


@dataclass(frozen=True, eq=False)
class SimulatedWords:
    """Draws the recognised words of records that have captions and no image.

    Attributes:
      captions: the captions of the records.
      recognisable: the ids of all words that the recogniser knows.
      count: K, the words of each record.
    """

    captions: Captions
    recognisable: Sequence[int]
    count: int = 20

    def draw(
        self, numbers: Int[np.ndarray, " B"], *, seed: int, step: int, first_row: int = 0
    ) -> RecognisedWords:
        """Return the words of some records, the most probable first.

        A pure function of the seed, the step and the row of each record.

        Args:
          numbers: the records.
          seed: the seed of the training.
          step: the step that reads them.
          first_row: the row of the first record in the whole batch.
        """
        ids = np.zeros((len(numbers), self.count), np.int32)
        probabilities = np.zeros((len(numbers), self.count), np.float32)
        for row, number in enumerate(numbers.tolist()):
            rng = np.random.default_rng((seed, step, first_row + row, _STREAM))
            words, given = self._draw(number, rng)
            ids[row, : len(words)], probabilities[row, : len(words)] = words, given
        return RecognisedWords(ids, probabilities)

    def _draw(
        self, number: int, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, " words"], Float[np.ndarray, " words"]]:
        # Sets are several times as fast as arrays of so few words.
        captions = (caption.tolist() for caption in self.captions.rows[number])
        said = self._known.intersection(itertools.chain.from_iterable(captions))
        true = [word for word in sorted(said) if rng.random() < KEPT]
        drawn = np.searchsorted(self._bounds, rng.random(rng.poisson(FALSE_WORDS)), side="right")
        false = sorted(set(self._ids[drawn].tolist()) - said)
        words = np.array(true + false, np.int32)
        probabilities = np.concatenate(
            [
                rng.uniform(*TRUE_PROBABILITIES, len(true)),
                rng.uniform(*FALSE_PROBABILITIES, len(false)),
            ]
        )
        order = np.argsort(-probabilities, kind="stable")[: self.count]
        return words[order], probabilities[order]

    @functools.cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(self.recognisable)

    @functools.cached_property
    def _ids(self) -> Int[np.ndarray, " recognisable"]:
        return np.array(sorted(self._known))

    @functools.cached_property
    def _bounds(self) -> Float[np.ndarray, " recognisable_minus_1"]:
        """Cumulative bounds of false words: a draw below `_bounds[i]` gives `_ids[i]`."""
        found = np.bincount(self.captions.rows.values, minlength=self._ids[-1] + 1)[self._ids]
        weights = (found if found.any() else np.ones(len(found))) ** FALSE_EXPONENT
        return (np.cumsum(weights) / weights.sum())[:-1]
