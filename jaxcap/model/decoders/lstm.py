"""Show and Tell: A Neural Image Caption Generator (Vinyals et al. 2015).

https://arxiv.org/abs/1411.4555, equations 10 to 12.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.model.decoders.base import Decoder
from jaxcap.model.decoders.cell import optimized_cell
from jaxcap.model.decoders.dropout import Dropout
from jaxcap.model.decoders.products import dense


class LSTMDecoder(Decoder):
    """The image is the first word that the LSTM reads, and is never shown again."""

    vocabulary_size: int  # type: ignore[misc]  # the base's fields are keyword-only
    hidden_size: int = 512
    embedding_size: int = 512
    embedding_dropout: float = 0.0
    feature_dropout: float = 0.0
    output_dropout: float = 0.0

    def setup(self) -> None:
        self.image_embed = dense(self.embedding_size, self.dtype)
        self.word_embed = nn.Embed(self.vocabulary_size, self.embedding_size)
        self.cell = optimized_cell(self.hidden_size, self.dtype)
        self.output = dense(self.vocabulary_size, self.dtype)
        self.drop_feature = Dropout(self.feature_dropout, self.axis_name)
        self.drop_embedding = Dropout(self.embedding_dropout, self.axis_name)
        self.drop_output = Dropout(self.output_dropout, self.axis_name)

    def start(self, features: Float[Array, "B P D"], *, train: bool) -> tuple[Any, Any]:
        """Equation 10: x₋₁ = CNN(I), the mean over positions, embedded like a word."""
        image = self.drop_feature(features.mean(axis=1), deterministic=not train)
        x = self.image_embed(image)[:, None]  # (B, 1, E)
        zeros = jnp.zeros((*x.shape[:2], self.hidden_size), x.dtype)
        carry, _ = self.cell((zeros, zeros), x)
        return carry, ()

    def advance(
        self, carry: Any, tokens: Int[Array, "B N"], context: Any, *, train: bool
    ) -> tuple[Any, tuple[Float[Array, "B N H"], Float[Array, "B N 0"]]]:
        """Equation 11: xₜ = Wₑ Sₜ."""
        x = self.drop_embedding(self.word_embed(tokens), deterministic=not train)
        carry, h = self.cell(carry, x)
        return carry, (h, jnp.zeros((*tokens.shape, 0), h.dtype))

    def readout(self, state: Float[Array, "B N *T H"], *, train: bool) -> Float[Array, "B N *T V"]:
        """Equation 12: pₜ₊₁ = softmax(W hₜ), before the softmax."""
        return self.output(self.drop_output(state, deterministic=not train))
