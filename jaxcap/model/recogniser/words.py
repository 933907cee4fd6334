"""The words that a recogniser finds in images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int


class RecognisedWords(NamedTuple):
    """The K most probable words of each image, in falling order of probability.

    Attributes:
      ids: ids of the vocabulary; 0, `<pad>`, where an image has fewer words.
      probabilities: the probability that a person's caption of the image contains the word; 0
        where an image has fewer words.
    """

    ids: Int[Array | np.ndarray, "B K"]
    probabilities: Float[Array | np.ndarray, "B K"]
