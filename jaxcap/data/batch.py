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
