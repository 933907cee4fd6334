"""Decide which of several data sets each training step reads.

Each batch comes from one data set, as in weighted fair queueing: the one that is furthest behind
its share. The choice depends on the step alone, so a resumed run continues exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

_MAX_STEPS = 1 << 53
"""The most steps of an epoch; a tiny share would make them infinite."""


def shares_of(weights: Sequence[float], sizes: Sequence[int]) -> tuple[float, ...]:
    """Return the share of the steps that each data set gets; they add up to 1.

    Args:
      weights: a number for each data set, not all 0; empty: in proportion to `sizes`.
      sizes: the number of images in each data set.
    """
    weights = weights or sizes
    return tuple(weight / sum(weights) for weight in weights)


def steps_of_epoch(shares: Sequence[float], batches: Sequence[int]) -> int:
    """Count the steps of an epoch: one pass over the first data set that is read at all.

    Args:
      shares: see `shares_of`.
      batches: the number of batches in each data set.
    """
    first = next(i for i, share in enumerate(shares) if share > 0)
    return math.ceil(round(min(batches[first] / shares[first], _MAX_STEPS), 6))


@dataclass(frozen=True)
class Turns:
    """The order in which the steps of a stage read their data sets.

    Attributes:
      shares: the share of each data set (`shares_of`).
      read: the batches of each data set that earlier stages read.
    """

    shares: tuple[float, ...] = (1.0,)
    read: tuple[int, ...] = (0,)

    @property
    def first_step(self) -> int:
        """The number of steps in earlier stages."""
        return sum(self.read)

    def up_to(self, stop: int) -> tuple[Int[np.ndarray, " steps"], Int[np.ndarray, " steps"]]:
        """Return the data set of each step from `first_step` to `stop` − 1, and its place there.

        Step s of the stage reads the data set i with the largest (s + 1) · shareᵢ − countᵢ, where
        countᵢ is the number of steps of this stage that read i before. The place of a batch is the
        number of batches of the same data set before it, in all stages.
        """
        count = max(0, stop - self.first_step)
        chosen, places = np.zeros(count, np.int64), np.zeros(count, np.int64)
        counts = [0] * len(self.shares)
        readable = [i for i, share in enumerate(self.shares) if share > 0]
        if len(readable) == 1:
            (only,) = readable
            return chosen + only, self.read[only] + np.arange(count)
        for step in range(count):
            behind = max(readable, key=lambda i: (step + 1) * self.shares[i] - counts[i])
            chosen[step], places[step] = behind, self.read[behind] + counts[behind]
            counts[behind] += 1
        return chosen, places

    def followed_by(self, shares: tuple[float, ...], *, stop: int) -> Turns:
        """Return the turns of the stage that begins at step `stop`, with its own shares."""
        chosen, _ = self.up_to(stop)
        counts = np.bincount(chosen, minlength=len(self.read))
        return Turns(shares, tuple((np.array(self.read) + counts).tolist()))
