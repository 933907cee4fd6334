"""Scores of attention: how well a state matches each position of an image."""

from __future__ import annotations

import math
from typing import Any, Literal

import flax.linen as nn
from jaxtyping import Array, Float

from jaxcap.model.decoders.products import FLOAT32, dense, product


class Scores(nn.Module):
    """e = wᵀ tanh(Wᵥ v + Wₕ h) (Bahdanau et al. 2014) or (Wᵥ v)ᵀ (Wₕ h) / √A (Vaswani et al. 2017).

    M states of an image are compared with its P positions. The keys Wᵥ v are computed once for
    all states. The first form needs `[B, M, P, A]` in memory; the second is a matrix product.

    Attributes:
      size: A, the width in which states and positions are compared.
      scoring: `additive` (the first form) or `dot`.
      dtype: the type of matrix products.
    """

    size: int
    scoring: Literal["additive", "dot"] = "additive"
    dtype: Any = FLOAT32

    def setup(self) -> None:
        self.key = dense(self.size, self.dtype, use_bias=False)
        self.query = dense(self.size, self.dtype, use_bias=False)
        if self.scoring == "additive":
            self.score = dense(1, self.dtype, use_bias=False)

    def keys(self, v: Float[Array, "B P D"]) -> Float[Array, "B P A"]:
        """Return Wᵥ v for the positions."""
        return self.key(v)

    def queries(self, h: Float[Array, "*B H"]) -> Float[Array, "*B A"]:
        """Return Wₕ h for the states."""
        return self.query(h)

    def __call__(
        self, queries: Float[Array, "B M A"], keys: Float[Array, "B P A"]
    ) -> Float[Array, "B M P"]:
        """Score every state against every position of its image."""
        if self.scoring == "additive":
            return self.score(nn.tanh(queries[:, :, None] + keys[:, None]))[..., 0]
        return product("bma,bpa->bmp", queries, keys, self.dtype) / math.sqrt(self.size)

    def pairs(
        self, queries: Float[Array, "*B A"], keys: Float[Array, "*B A"]
    ) -> Float[Array, "*B 1"]:
        """Score every state against one key of its own."""
        if self.scoring == "additive":
            return self.score(nn.tanh(queries + keys))
        return (queries * keys).sum(axis=-1, keepdims=True) / math.sqrt(self.size)
