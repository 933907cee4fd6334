"""Bootstrap confidence intervals of scores, and paired tests between two models.

Each sample draws as many images as there are, with replacement (Efron 1979). To compare two
models, the same images are drawn for both (Koehn 2004, "Statistical Significance Tests for Machine
Translation Evaluation", https://aclanthology.org/W04-3250, section 5). The intervals cover the
variation between images, not between training seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxcap.messages.errors import InputError
from jaxcap.scoring.statistics import Statistics

_TAILS = (2.5, 97.5)
_BLOCK = 2_000_000
"""The number of draws held in memory at once."""
_FEWEST, _MOST = 100, 1_000_000
"""How many samples may be drawn; fewer are too few for the percentiles, and the scores of more
would fill the memory."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval: the 2.5th and 97.5th percentiles."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A score of the first model minus that of the second.

    Attributes:
      difference: the difference on all images, ×100.
      interval: the interval of the difference, ×100.
      ahead: the fraction of samples in which the first model is better, Koehn's confidence.
      p: the two-sided p-value of no difference: twice the smaller fraction of samples on either
        side of 0. One sample is added to each count, so p is never 0.
      wins: the number of images that score higher with the first model.
      ties: the number of images with equal scores.
      losses: the number of images that score higher with the second model.
    """

    difference: float
    interval: Interval
    ahead: float
    p: float
    wins: int
    ties: int
    losses: int


def resamples(images: int, number: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks `[r, images]` of counts of how often each image is drawn, `number` rows in all.

    Raises:
      InputError: `number` is below 100 or above a million.
    """
    if not _FEWEST <= number <= _MOST:
        raise InputError(
            f"--resamples {number}: expected {_FEWEST} or more, at most {_MOST} (usual: 1000)."
        )
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // images)
    for start in range(0, number, rows):
        size = min(rows, number - start)
        drawn = rng.integers(images, size=(size, images))
        drawn += np.arange(size)[:, None] * images
        counts = np.bincount(drawn.ravel(), minlength=size * images)
        yield counts.reshape(size, images).astype(np.float64)


def _interval(samples: np.ndarray) -> Interval:
    low, high = np.percentile(samples, _TAILS)
    return Interval(float(low), float(high))


def _sampled(statistics: Statistics, number: int, seed: int) -> dict[str, np.ndarray]:
    blocks = [statistics.scores(block) for block in resamples(len(statistics), number, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def intervals(statistics: Statistics, *, number: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Return the 95 % interval of each score by name, ×100."""
    return {
        name: _interval(samples) for name, samples in _sampled(statistics, number, seed).items()
    }


def compare(
    first: Statistics, second: Statistics, *, number: int = 1000, seed: int = 0
) -> dict[str, Comparison]:
    """Compare two models by each score, on the same images in the same order.

    Raises:
      InputError: the numbers of images differ.
    """
    if len(first) != len(second):
        raise InputError(
            f"A paired comparison needs the same images; found {len(first)} and {len(second)}."
        )
    ours, theirs = _sampled(first, number, seed), _sampled(second, number, seed)
    corpus, other = first.corpus(), second.corpus()
    alone, other_alone = first.per_image(), second.per_image()
    result = {}
    for name in ours:
        samples = ours[name] - theirs[name]
        behind, ahead = int((samples <= 0).sum()), int((samples >= 0).sum())
        gap = alone[name] - other_alone[name]
        # Scores of equal captions may differ in the last bit, by the order of summation.
        wins, losses = int((gap > 1e-9).sum()), int((gap < -1e-9).sum())
        result[name] = Comparison(
            difference=corpus[name] - other[name],
            interval=_interval(samples),
            ahead=float((samples > 0).mean()),
            p=min(1.0, 2 * (1 + min(behind, ahead)) / (1 + number)),
            wins=wins,
            ties=len(gap) - wins - losses,
            losses=losses,
        )
    return result
