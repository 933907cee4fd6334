"""Rank finished captions; log p alone favours short ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Array, Float, Int

LengthNormalisation = Literal["none", "average", "exponent", "gnmt"]
"""How a caption's log p is divided by its length; see `normalise`."""


@dataclass(frozen=True)
class Ranking:
    """How a beam search ranks its finished captions, and how many it returns.

    The search itself compares unnormalised log probabilities.

    Attributes:
      n_best: how many captions to return; None returns one for each beam.
      normalisation: how the score allows for length, see `normalise`.
      length_penalty: α, used by `exponent` and `gnmt`.
    """

    n_best: int | None = None
    normalisation: LengthNormalisation = "exponent"
    length_penalty: float = 1.0


def normalise(
    log_probs: Float[Array, "*B"],
    lengths: Int[Array, "*B"],
    normalisation: LengthNormalisation = "exponent",
    length_penalty: float = 1.0,
) -> Float[Array, "*B"]:
    """Divide log p by a function of the caption's length.

    Args:
      log_probs: log p of whole captions.
      lengths: the number of tokens |Y| of each caption, including `<eos>`, at least 1.
      normalisation: the divisor. `none`: 1. `average`: |Y|. `exponent`: |Y|^α. `gnmt`:
        (5 + |Y|)^α / 6^α (Wu et al. 2016, https://arxiv.org/abs/1609.08144, equation 14).
      length_penalty: α, used by `exponent` and `gnmt`.
    """
    match normalisation:
        case "none":
            return log_probs
        case "average":
            return log_probs / lengths
        case "exponent":
            return log_probs / lengths**length_penalty
        case "gnmt":
            return log_probs / ((5.0 + lengths) / 6.0) ** length_penalty
