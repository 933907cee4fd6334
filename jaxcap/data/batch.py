"""The arrays that a step of training or evaluation reads.

B images   N captions of each   T tokens   S image side   P positions   D feature width
K recognised words
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxcap.model.recogniser.words import RecognisedWords


class Batch(NamedTuple):
    """Images, as pixels or as features, and their captions; or captions without images.

    At most one of `pixels` and `features` is given; without either, `words` are.

    Attributes:
      tokens: ids from `<bos>` to `<eos>`, padded with `<pad>`. A row of `<pad>` alone means that
        the image has no further caption.
      pixels: decoded images, not yet normalised.
      features: the output of a frozen encoder, computed earlier.
      words: recognised words, with features, or in place of an image.
      valid: False for the images that pad the last batch of an evaluation. `train_step` does not
        read it.
      numbers: the index of each image in its split, or, in training on several data sets, among all
        images. `train_step` does not read it.
    """

    tokens: Int[Array | np.ndarray, "B N T"]
    pixels: UInt8[Array | np.ndarray, "B S S 3"] | None = None
    features: Float[Array | np.ndarray, "B P D"] | None = None
    words: RecognisedWords | None = None
    valid: Bool[Array | np.ndarray, " B"] | None = None
    numbers: Int[Array | np.ndarray, " B"] | None = None

    @property
    def objective_inputs(self) -> tuple[()]:
        """The arguments of the objective after logits, targets and mask: none."""
        return ()


class Samples(NamedTuple):
    """Images with captions sampled from the model, and the rewards of these captions.

    Attributes:
      tokens: the samples from `<bos>` on, padded with `<pad>` after `<eos>`.
      rewards: the score of each sample.
      baselines: the score that each reward is compared with.
      pixels, features, words: see `Batch`.
    """

    tokens: Int[Array | np.ndarray, "B N T"]
    rewards: Float[Array | np.ndarray, "B N"]
    baselines: Float[Array | np.ndarray, "B N"]
    pixels: UInt8[Array | np.ndarray, "B S S 3"] | None = None
    features: Float[Array | np.ndarray, "B P D"] | None = None
    words: RecognisedWords | None = None

    @property
    def objective_inputs(
        self,
    ) -> tuple[Float[Array | np.ndarray, "B N"], Float[Array | np.ndarray, "B N"]]:
        """The arguments of the objective after logits, targets and mask: rewards and baselines."""
        return self.rewards, self.baselines
