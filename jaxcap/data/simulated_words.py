"""Recognised words for captions without an image, as a recogniser would have given them.

Captions without their photographs can teach a captioner new words and their contexts if their
content words stand in for the image: Hendricks et al. 2016, "Deep Compositional Captioning"
(https://arxiv.org/abs/1511.05284), and Venugopalan et al. 2017, "Captioning Images with Diverse
Objects" (https://arxiv.org/abs/1606.07770), train a language model on text beside a recogniser.
Here both meet in one decoder that reads recognised words. The words of a caption are therefore
thinned and disturbed; otherwise the decoder would learn to trust every word that it is given.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxcap.data.captions import Captions
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.text.vocabulary import EOS


class Spread(NamedTuple):
    """Draws probabilities lowest + (highest − lowest) uᵉ, with u uniform from 0 to 1."""

    lowest: float
    highest: float
    exponent: float

    def draw(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
        """Return `count` probabilities."""
        return self.lowest + (self.highest - self.lowest) * rng.random(count) ** self.exponent


# Fitted to what a detector trained on Flickr8k says of its development photographs.
KEPT = 0.5
"""The probability that a word of the captions is recognised."""
FREQUENT, KEPT_IF_FREQUENT = 0.04, 0.85
"""The same for a word that more than this share of all captions says, such as man or white: a
detector knows it well, so where it is missing, there is none."""
KEPT_PEOPLE = 0.97
"""The same for a word for people, where the recogniser has a threshold for them."""
TRUE_PROBABILITIES = Spread(0.15, 1.0, 2.2)
"""The probabilities that recognised words are given."""
PEOPLE_PROBABILITIES = Spread(0.4, 1.0, 1.0)
"""The same for words for people."""
FALSE_PROBABILITIES = Spread(0.12, 0.57, 2.5)
"""The probabilities that false words are given, which fill the places that are left."""
UNSURE = 0.5
"""Words of a random image below this probability are further false words."""
FALSE_BESIDE_IMAGE = 1.5
"""The mean number of other false words beside a random image; their number follows Poisson."""
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
      people: the ids of words for people, if the recogniser leaves them out where it is doubtful
        that there are any.
    """

    captions: Captions
    recognisable: Sequence[int]
    count: int = 20
    people: Collection[int] = ()

    def draw(
        self,
        numbers: Int[np.ndarray, " B"],
        *,
        seed: int,
        step: int,
        first_row: int = 0,
        of_image: RecognisedWords | None = None,
    ) -> RecognisedWords:
        """Return the words of some records, the most probable first.

        A pure function of the seed, the step and the row of each record.

        Args:
          numbers: the records.
          seed: the seed of the run.
          step: the step that reads them.
          first_row: the row of the first record in the whole batch.
          of_image: what was recognised in the random image that each record comes with. Where the
            recogniser was unsure, its words stay, as if it had seen the image of the captions.
        """
        ids = np.zeros((len(numbers), self.count), np.int32)
        probabilities = np.zeros((len(numbers), self.count), np.float32)
        for row, number in enumerate(numbers.tolist()):
            rng = np.random.default_rng((seed, step, first_row + row, _STREAM))
            seen = None if of_image is None else _unsure(of_image, row)
            words, given = self._draw(number, rng, seen)
            ids[row, : len(words)], probabilities[row, : len(words)] = words, given
        return RecognisedWords(ids, probabilities)

    def _draw(
        self, number: int, rng: np.random.Generator, of_image: Mapping[int, float] | None
    ) -> tuple[Int[np.ndarray, " words"], Float[np.ndarray, " words"]]:
        # Sets are several times as fast as arrays of so few words.
        captions = (caption.tolist() for caption in self.captions.rows[number])
        said = self._known.intersection(itertools.chain.from_iterable(captions))
        true = [word for word in sorted(said) if rng.random() < self._kept(word)]
        people = np.isin(true, list(self.people))
        places = max(0, self.count - len(true))
        count = places if of_image is None else min(places, rng.poisson(FALSE_BESIDE_IMAGE))
        drawn = np.searchsorted(self._bounds, rng.random(count), side="right")
        false = sorted(set(self._ids[drawn].tolist()) - said.union(self.people))
        unseen = {*said, *false, *(() if people.any() else self.people)}
        seen = {w: p for w, p in (of_image or {}).items() if w not in unseen}
        words = np.array([*true, *false, *seen], np.int32)
        given = TRUE_PROBABILITIES.draw(rng, len(true))
        given[people] = PEOPLE_PROBABILITIES.draw(rng, int(people.sum()))
        false_given = FALSE_PROBABILITIES.draw(rng, len(false))
        probabilities = np.concatenate([given, false_given, np.array(list(seen.values()))])
        order = np.argsort(-probabilities, kind="stable")[: self.count]
        return words[order], probabilities[order]

    def _kept(self, word: int) -> float:
        if word in self.people:
            return KEPT_PEOPLE
        return KEPT_IF_FREQUENT if word in self._frequent else KEPT

    @functools.cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(self.recognisable)

    @functools.cached_property
    def _frequent(self) -> frozenset[int]:
        counts = np.bincount(self.captions.rows.values, minlength=EOS + 1)  # one <eos> a caption
        return frozenset(np.flatnonzero(counts > FREQUENT * counts[EOS]).tolist())

    @functools.cached_property
    def _ids(self) -> Int[np.ndarray, " recognisable"]:
        return np.array(sorted(self._known))

    @functools.cached_property
    def _bounds(self) -> Float[np.ndarray, " recognisable_minus_1"]:
        """Cumulative bounds of false words: a draw below `_bounds[i]` gives `_ids[i]`."""
        found = np.bincount(self.captions.rows.values, minlength=self._ids[-1] + 1)[self._ids]
        weights = (found if found.any() else np.ones(len(found))) ** FALSE_EXPONENT
        return (np.cumsum(weights) / weights.sum())[:-1]


def _unsure(words: RecognisedWords, row: int) -> dict[int, float]:
    both = zip(words.ids[row].tolist(), words.probabilities[row].tolist(), strict=True)
    return {word: p for word, p in both if 0 < p < UNSURE}
