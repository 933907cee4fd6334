"""Scores that allow for length: without, log p favours short captions."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Array, Float, Int

LengthNormalisation = Literal["none", "average", "exponent", "gnmt"]


def normalise(
    log_probs: Float[Array, "*B"],
    lengths: Int[Array, "*B"],
    normalisation: LengthNormalisation = "exponent",
    length_penalty: float = 1.0,
) -> Float[Array, "*B"]:
    """Divides log p by what the length asks for.

    Args:
      log_probs: log p of whole captions.
      lengths: their numbers of tokens |Y|, `<eos>` among them, at least 1.
      normalisation: `none`, 1; `average`, |Y|; `exponent`, |Y|^α; `gnmt`, (5 + |Y|)^α / 6^α
        (Wu et al. 2016, https://arxiv.org/abs/1609.08144, equation 14).
      length_penalty: α, of the latter two.
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
