"""Show and Tell: A Neural Image Caption Generator (Vinyals et al. 2015).

https://arxiv.org/abs/1411.4555, equations 10 to 12.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.model.decoders.base import Decoder
from jaxcap.model.decoders.cell import Carry, optimized_cell
from jaxcap.model.decoders.products import dense

Context = tuple[()]
"""Nothing: the image is only seen at the start."""
State = Float[Array, "B N *T H"]
"""h, the hidden state."""


class LSTMDecoder(Decoder[Carry, Context, State]):
    """An LSTM that reads the image as its first word, and never sees it again."""

    has_attention = False

    def setup(self) -> None:
        super().setup()
        self.image_embed = dense(self.embedding_size, self.dtype)
        self.cell = optimized_cell(self.hidden_size, self.dtype)

    def start(self, features: Float[Array, "B P D"], *, train: bool) -> tuple[Carry, Context]:
        """Equation 10: x₋₁ = CNN(I), the mean over positions, embedded like a word."""
        image = self.drop_feature(features.mean(axis=1), deterministic=not train)
        x = self.image_embed(image)[:, None]  # (B, 1, E)
        zeros = jnp.zeros((*x.shape[:2], self.hidden_size), x.dtype)
        carry, _ = self.cell((zeros, zeros), x)
        return carry, ()

    def advance(
        self, carry: Carry, tokens: Int[Array, "B N"], context: Context, *, train: bool
    ) -> tuple[Carry, tuple[Float[Array, "B N H"], Float[Array, "B N 0"]]]:
        """Equation 11: xₜ = Wₑ Sₜ."""
        carry, h = self.cell(carry, self.embed(tokens, train=train))
        return carry, (h, jnp.zeros((*tokens.shape, 0), h.dtype))

    def readout(self, state: State, *, train: bool) -> Float[Array, "B N *T V"]:
        """Equation 12: pₜ₊₁ = softmax(W hₜ), before the softmax."""
        return self.output(self.drop_output(state, deterministic=not train))
