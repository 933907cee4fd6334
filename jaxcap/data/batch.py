"""What a step of training or evaluation works on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8


class Batch(NamedTuple):
    """Some images with all their captions.

    Attributes:
      images: pixels as decoded, `[B, S, S, 3]`, or in their place the features that a frozen
        encoder made of them earlier, `[B, P, D]`; `Captioner.encode` takes either.
      tokens: captions as ids with `<bos>` and `<eos>`, `<pad>` after; a row of nothing but
        `<pad>` stands for a caption that an image does not have, `[B, N, T]`.
      valid: false for images that only fill up the last batch of an evaluation, `[B]`.
      numbers: number of each image's record in its split, `[B]`.
    """

    images: UInt8[Array | np.ndarray, "B S S 3"] | Float[Array | np.ndarray, "B P D"]
    tokens: Int[Array | np.ndarray, "B N T"]
    valid: Bool[Array | np.ndarray, " B"]
    numbers: Int[Array | np.ndarray, " B"]


class Samples(NamedTuple):
    """Some images with captions that the model has drawn itself, and what these are worth.

    Attributes:
      images: as in a `Batch`.
      tokens: the drawn captions, with `<bos>`, `<pad>` after their `<eos>`, `[B, N, T]`.
      rewards: of each caption, `[B, N]`.
      baselines: what its reward is compared with, `[B, N]`.
    """

    images: UInt8[Array | np.ndarray, "B S S 3"] | Float[Array | np.ndarray, "B P D"]
    tokens: Int[Array | np.ndarray, "B N T"]
    rewards: Float[Array | np.ndarray, "B N"]
    baselines: Float[Array | np.ndarray, "B N"]
