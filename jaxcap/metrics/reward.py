"""CIDEr-D and BLEU-4 of sampled captions, as a reward for self-critical training.

Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning",
https://arxiv.org/abs/1612.00563, section 3, rewards a sampled caption with its CIDEr-D. Two things
differ from scoring an evaluation split, and without them a model learns to break captions off:

- **`<eos>` is a word**, in samples and in references, so that to end well ("… a ball <eos>", not
  "… a <eos>") is worth something, and a sample that never ends goes without it.
- **Document frequencies are the training split's**: those of a batch would depend on the batch.

Samples stay arrays of ids from end to end. References are indexed once; a batch of 64 images with
5 samples and 5 references each takes a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jaxcap.errors import InputError
from jaxcap.metrics.bleu import count_matches
from jaxcap.metrics.cider import cider_d_out_of_10
from jaxcap.metrics.ngrams import Captions, References

_BEYOND = -1  # fills rows beyond a reference's end


@dataclass(frozen=True)
class CiderReward:
    """Scores samples against the references of training images.

    The reward of a sample is `cider` · CIDEr-D + `bleu` · BLEU-4. CIDEr-D is in [0, 10], as self-
    critical training has it. BLEU-4 is of the one sample, in [0, 1], and not smoothed: without a
    common four-gram it is nearly 0, as in coco-caption and the training code that uses it.
    """

    index: References
    eos: int
    ignored: tuple[int, ...]
    cider: float = 1.0
    bleu: float = 0.0

    @classmethod
    def from_references(
        cls,
        references: Sequence[Sequence[Sequence[int] | np.ndarray] | np.ndarray],
        *,
        eos: int,
        ignored: Sequence[int] = (),
        cider: float = 1.0,
        bleu: float = 0.0,
    ) -> CiderReward:
        """Indexes the references of a training split.

        References and samples are read alike: up to their first `eos` and including it, or to
        their end where there is none, `ignored` ids left out.

        Args:
          references: for each training image its captions as ids, each ending in `eos`; padded
            arrays will do.
          eos: the id of the end of a caption.
          ignored: ids that are no words, such as those of padding and of the start.
          cider: the weight of CIDEr-D.
          bleu: the weight of BLEU-4.

        Raises:
          InputError: no images, an image without references, or references that have no `eos`.
        """
        if not len(references):
            raise InputError("There are no references to take document frequencies from.")
        per_image = np.array([len(each) for each in references])
        if not per_image.all():
            raise InputError(
                f"Training image {int(np.argmin(per_image))} has no references; expected one or "
                "more for each image."
            )
        captions = [np.asarray(each, np.int64) for image in references for each in image]
        if not any(eos in each for each in captions):
            raise InputError(
                f"No reference holds the end token {eos}. Its n-grams are part of the reward, or "
                "captions come out broken off: give references as `vocabulary.encode` makes them."
            )
        rows = np.full((len(captions), max(len(each) for each in captions)), _BEYOND)
        for row, each in zip(rows, captions, strict=True):
            row[: len(each)] = each
        words = _words(rows, eos=eos, ignored=(*ignored, _BEYOND))
        return cls(References(words, per_image), eos, tuple(ignored), cider, bleu)

    def __call__(
        self, images: Int[np.ndarray, " B"], samples: Int[np.ndarray, "B N T"]
    ) -> Float[np.ndarray, "B N"]:
        """Rewards N sampled captions of each of B images.

        Args:
          images: the place of each image among the references; one may come twice.
          samples: token ids; what follows the first `eos` is not read.

        Returns:
          The rewards, in the order of the samples.

        Raises:
          InputError: a place that no training image has.
        """
        if images.min() < 0 or images.max() >= self.index.images:
            raise InputError(
                f"Image {int(images.max() if images.min() >= 0 else images.min())} has no "
                f"references; expected a place from 0 to {self.index.images - 1}."
            )
        rows = samples.reshape(-1, samples.shape[-1]).astype(np.int64)
        matches = self.index.match(_words(rows, eos=self.eos, ignored=self.ignored), images)
        reward = np.zeros(samples.shape[:2])
        if self.cider:
            reward += self.cider * cider_d_out_of_10(matches)
        if self.bleu:
            reward += self.bleu * count_matches(matches).fractions()[..., 3]
        return reward


def _words(rows: Int[np.ndarray, "captions T"], *, eos: int, ignored: Sequence[int]) -> Captions:
    """The ids up to the first `eos`, itself included, or to the end of the row."""
    ended = rows == eos
    kept = np.cumsum(ended, axis=1) - ended == 0
    for each in ignored:
        kept &= rows != each
    return Captions(rows[kept], kept.sum(axis=1))
