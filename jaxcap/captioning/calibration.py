"""Let a model say when it does not know: familiarity of images, and calibrated confidence.

*Familiarity* measures how similar an image is to the training photographs: the cosine similarity of
its mean features to those of the nearest training photograph (Sun et al. 2022, "Out-of-Distribution
Detection with Deep Nearest Neighbors", https://arxiv.org/abs/2204.06507), as a rank among held-out
photographs of the same kind.

*Confidence* is the probability that a caption is good: that its CIDEr-D is at least `GOOD`.
Logistic regression on held-out photographs estimates it from the observations that are available
after the search.

I images   D features   R principal components   F observations
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, get_type_hints

import numpy as np
from jaxtyping import Bool, Float

from jaxcap.captioning.results import Caption, Captioned
from jaxcap.messages.errors import InputError
from jaxcap.model.recogniser.words import group_of_word, words_for_people

GOOD = 50.0
"""The CIDEr-D, ×100, from which a caption is good."""

_COMPONENTS = 64
_RIDGE, _RIDGE_OF_COMPONENTS = 1.0, 100.0
_FOLDS = 10
_MAX_SIZE = 1 << 24
"""Numbers in an array of a file; 2,000 photographs have 128,000."""


class Familiarity(NamedTuple):
    """How similar an image is to the training photographs.

    Attributes:
      mean: μ, the mean of the training photographs' features.
      components: A, their first principal components.
      photographs: A(z − μ) / ‖z − μ‖ of each training photograph's features z.
      levels: similarities of held-out photographs, in rising order.
    """

    mean: Float[np.ndarray, " D"]
    components: Float[np.ndarray, "R D"]
    photographs: Float[np.ndarray, "N R"]
    levels: Float[np.ndarray, " L"]

    @classmethod
    def fit(
        cls, training: Float[np.ndarray, "N D"], held_out: Float[np.ndarray, "I D"]
    ) -> Familiarity:
        """Learn from the features of training photographs, and of held-out ones of the same
        kind."""
        mean = training.mean(axis=0)
        *_, components = np.linalg.svd(training - mean, full_matrices=False)
        whole = cls(mean, components[:_COMPONENTS], np.zeros((1, 1)), np.zeros(1))
        whole = whole._replace(photographs=whole.project(training))
        levels = np.quantile(whole.similarity(held_out), np.linspace(0, 1, 101))
        return whole._replace(levels=levels)

    def similarity(self, features: Float[np.ndarray, "I D"]) -> Float[np.ndarray, " I"]:
        """Return the cosine similarity to the nearest training photograph.

        The part that the principal components do not explain counts as unlike all of them.
        """
        return (self.project(features) @ self.photographs.T).max(axis=-1)

    def project(self, features: Float[np.ndarray, "I D"]) -> Float[np.ndarray, "I R"]:
        """Return the principal components of each image's direction from the mean."""
        centred = features - self.mean
        norm = np.linalg.norm(centred, axis=-1, keepdims=True)
        return centred @ self.components.T / np.maximum(norm, np.finfo(np.float32).tiny)

    def __call__(self, features: Float[np.ndarray, "I D"]) -> Float[np.ndarray, " I"]:
        """Return the share of held-out photographs that are less familiar, from 0 to 1."""
        ranks = np.linspace(0, 1, len(self.levels))
        return np.interp(self.similarity(features), self.levels, ranks)


class Confidence(NamedTuple):
    """The probability that a caption is good, by logistic regression.

    Attributes:
      centre: the mean of each observation; it also stands for an unknown one.
      weights: the coefficient of each observation.
      intercept: the log-odds at the means.
    """

    centre: Float[np.ndarray, " F"]
    weights: Float[np.ndarray, " F"]
    intercept: Float[np.ndarray, ""]

    @classmethod
    def fit(
        cls,
        observed: Float[np.ndarray, "I F"],
        good: Bool[np.ndarray, " I"],
        ridge: float | Float[np.ndarray, " F"] = _RIDGE,
    ) -> Confidence:
        """Learn from held-out captions by Newton's method, with a ridge on standardised weights."""
        known = ~np.isnan(observed)
        count = np.maximum(known.sum(axis=0), 1)
        centre = np.where(known, observed, 0).sum(axis=0) / count
        centred = np.where(known, observed - centre, 0)
        scale = np.sqrt(np.square(centred).sum(axis=0) / count)
        scale = np.where(scale > 0, scale, 1)
        design = np.column_stack([np.ones(len(centred)), centred / scale])
        solution, penalty = np.zeros(design.shape[1]), np.full(design.shape[1], _RIDGE)
        penalty[1:] = ridge
        for _ in range(20):
            p = _logistic(design @ solution)
            gradient = design.T @ (good - p) - penalty * solution
            hessian = (design.T * (p * (1 - p))) @ design + np.diag(penalty)
            solution = solution + np.linalg.solve(hessian, gradient)
        return cls(centre, solution[1:] / scale, solution[0])

    def __call__(self, observed: Float[np.ndarray, "I F"]) -> Float[np.ndarray, " I"]:
        """Return the probability for each row of observations."""
        return _logistic(np.nan_to_num(observed - self.centre) @ self.weights + self.intercept)


class Calibration(NamedTuple):
    """How a model judges the images that it sees and the captions that it writes."""

    familiarity: Familiarity
    confidence: Confidence

    def apply(self, result: Captioned) -> Captioned:
        """Return a result with its familiarity and the confidence of each caption.

        Raises:
          InputError: the calibration is of a model with features of another width.
        """
        if result.features is None or not result.captions:
            return result
        if (width := result.features.shape) != self.familiarity.mean.shape:
            raise InputError(
                f"{result.name}: the calibration of this model is of {self.familiarity.mean.shape} "
                f"features, but the model has {width}. Export the model again with --calibrate."
            )
        (familiarity,) = self.familiarity(result.features[None]).tolist()
        (components,) = self.familiarity.project(result.features[None])
        observed = np.stack([observe(result, each, components) for each in result.captions])
        captions = [
            replace(caption, calibrated=probability)
            for caption, probability in zip(
                result.captions, self.confidence(observed).tolist(), strict=True
            )
        ]
        return replace(result, familiarity=familiarity, captions=tuple(captions))


def observe(
    result: Captioned, caption: Caption, components: Float[np.ndarray, " R"]
) -> Float[np.ndarray, " F"]:
    """Return the observations on a caption; NaN for those that a model cannot make.

    These are the mean log p of a word; the probabilities that the model recognises the surest word,
    anybody at all, and the things that the caption names, on average; and the principal components
    of the image. The least log p, the number of words, the familiarity, and the margin over the
    next caption add nothing to these.
    """
    group_of, people = group_of_word(), words_for_people()
    recognised: dict[int, float] = {}
    for word, probability in result.recognised.items():  # in falling order of probability
        recognised.setdefault(group_of.get(word, -1), probability)
    things = {group_of[word] for word in caption.tokens if word in group_of}
    seen = [recognised.get(thing, 0.0) for thing in things] if recognised else []
    log_probs = caption.word_log_probs or (caption.log_prob,)
    sure = list(result.recognised.values())
    nobody = np.prod([1 - p for word, p in result.recognised.items() if word in people])
    return np.array(
        [
            np.mean(log_probs),
            max(sure) if sure else np.nan,
            1 - nobody if sure else np.nan,
            np.mean(seen) if seen else np.nan,
            *components,
        ]
    )


def calibrate(
    training: Float[np.ndarray, "N D"],
    results: Sequence[Captioned],
    scores: Float[np.ndarray, " I"],
    *,
    familiar: int,
) -> tuple[Calibration, float]:
    """Fit a calibration to held-out photographs.

    Args:
      training: mean features of training photographs.
      results: held-out photographs with their captions.
      scores: CIDEr-D, ×100, of the best caption of each.
      familiar: the number of them, counted from the first, that are of the same kind as the
        training data. Familiarity is a rank among these.

    Returns:
      The calibration, and Spearman's correlation of confidence and CIDEr-D over the held-out
      photographs, each judged by a regression on nine tenths of the others.
    """
    features = np.stack([np.asarray(result.features) for result in results])
    familiarity = Familiarity.fit(training, features[:familiar])
    components = familiarity.project(features)
    observed = np.stack(
        [
            observe(result, result.captions[0], own)
            for result, own in zip(results, components, strict=True)
        ]
    )
    ridge = np.full(observed.shape[1], _RIDGE)
    ridge[-components.shape[1] :] = _RIDGE_OF_COMPONENTS
    good = scores >= GOOD
    part = np.random.default_rng(0).permutation(len(results)) % _FOLDS
    confidence = np.zeros(len(results))
    for own in (part == number for number in range(_FOLDS)):
        confidence[own] = Confidence.fit(observed[~own], good[~own], ridge)(observed[own])
    fitted = Calibration(familiarity, Confidence.fit(observed, good, ridge))
    return fitted, _spearman(confidence, scores)


def to_arrays(calibration: Calibration) -> dict[str, np.ndarray]:
    """Return the arrays of a calibration by name, as a published model stores them."""
    return {
        f"{part}/{name}": np.asarray(array, np.float16 if array.ndim > 1 else np.float32)
        for part, arrays in calibration._asdict().items()
        for name, array in arrays._asdict().items()
    }


def from_arrays(arrays: Mapping[str, np.ndarray], *, where: str) -> Calibration:
    """Rebuild a calibration from the arrays that `to_arrays` returned.

    They are float64, where no sum of products of the numbers in a file overflows.

    Raises:
      InputError: these are not its arrays; the message begins with `where`.
    """
    lengths: dict[str, int] = {}  # of the axes in the annotations above
    parts = []
    for part, kind in get_type_hints(Calibration).items():
        exact = {}
        for name, annotation in get_type_hints(kind).items():
            array, axes = arrays.get(f"{part}/{name}"), annotation.dim_str.split()
            if (
                array is None
                or array.dtype not in (np.float16, np.float32)
                or not 0 < array.size <= _MAX_SIZE
                or array.ndim != len(axes)
                or array.shape != tuple(map(lengths.get, axes, array.shape))
            ):
                found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
                expected = ", ".join(str(lengths.get(axis, axis)) for axis in axes)
                raise InputError(
                    f"{where}: its calibration is damaged or was made by another version of "
                    f"jaxcap: calibration/{part}/{name} is {found}; expected float16 or float32 "
                    f"[{expected}], at most {_MAX_SIZE:,} numbers. Export the model again with "
                    "--calibrate."
                )
            lengths |= zip(axes, array.shape, strict=True)
            exact[name] = np.asarray(array, np.float64)
        parts.append(kind(**exact))
        about_captions = observe(Captioned(""), Caption("", 0.0), np.zeros(0))
        lengths["F"] = len(about_captions) + lengths["R"]
    return Calibration(*parts)


def _logistic(x: Float[np.ndarray, " I"]) -> Float[np.ndarray, " I"]:
    return 1 / (1 + np.exp(-np.clip(x, -16, 16)))  # beyond 16, float32 rounds to 1


def _spearman(x: Float[np.ndarray, " I"], y: Float[np.ndarray, " I"]) -> float:
    """Return the correlation of ranks; 0 if all numbers of either are equal."""
    a, b = (ranks - ranks.mean() for ranks in (_ranks(x), _ranks(y)))
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), np.finfo(np.float32).tiny))


def _ranks(x: Float[np.ndarray, " I"]) -> Float[np.ndarray, " I"]:
    """Return the rank of each number; equal numbers share the mean of theirs."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
