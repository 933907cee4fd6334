"""Rewards for self-critical training: CIDEr-D and BLEU-4 of sampled captions.

Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning",
https://arxiv.org/abs/1612.00563, section 3, rewards a sampled caption with its CIDEr-D. The reward
differs in two ways from the evaluation metric:

- **`<eos>` counts as a word**, in samples and references. Otherwise the model learns to stop early
  ("… a <eos>" instead of "… a ball <eos>"), because its endings are not scored.
- **Document frequencies come from the training split**, so that they do not depend on the batch.

Samples remain arrays of ids. References are indexed once; a batch of 64 images with 5 samples and
5 references each takes a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jaxcap.messages.errors import InputError
from jaxcap.metrics.bleu import count_matches
from jaxcap.metrics.cider import cider_d_out_of_10
from jaxcap.metrics.ngrams import Captions, References

_BEYOND = -1  # padding after the end of a reference


@dataclass(frozen=True)
class CiderReward:
    """Scores samples against the references of training images.

    The reward of a sample is `cider` · CIDEr-D + `bleu` · BLEU-4, with CIDEr-D in [0, 10], as is
    usual in self-critical training, and BLEU-4 of the single sample in [0, 1]. BLEU-4 is not
    smoothed: without a common four-gram it is nearly 0, as in coco-caption.
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
        """Index the references of a training split.

        References and samples are read up to and including their first `eos`, or to their end if
        they have none. Ids in `ignored` are skipped.

        Args:
          references: the captions of each training image as ids, each ending in `eos`, with or
            without padding.
          eos: the id of `<eos>`.
          ignored: ids that are not words, such as `<pad>` and `<bos>`.
          cider: the weight of CIDEr-D.
          bleu: the weight of BLEU-4.

        Raises:
          InputError: there are no images, an image has no references, or no reference has `eos`.
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
                f"No reference contains the end token {eos}; expected references as returned by "
                "`vocabulary.encode`. The reward needs it, or captions learn to stop early."
            )
        rows = np.full((len(captions), max(len(each) for each in captions)), _BEYOND)
        for row, each in zip(rows, captions, strict=True):
            row[: len(each)] = each
        words = _words(rows, eos=eos, ignored=(*ignored, _BEYOND))
        return cls(References(words, per_image), eos, tuple(ignored), cider, bleu)

    def __call__(
        self, images: Int[np.ndarray, " B"], samples: Int[np.ndarray, "B N T"]
    ) -> Float[np.ndarray, "B N"]:
        """Compute the rewards of N sampled captions of each of B images.

        Args:
          images: `[B]`, the index of each image in `references`; an image may occur twice.
          samples: `[B, N, T]` token ids; ids after the first `eos` are ignored.

        Returns:
          The rewards, `[B, N]`.

        Raises:
          InputError: an index is out of range.
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
    """Keep the ids up to and including the first `eos`, or to the end of the row."""
    ended = rows == eos
    kept = np.cumsum(ended, axis=1) - ended == 0
    for each in ignored:
        kept &= rows != each
    return Captions(rows[kept], kept.sum(axis=1))
