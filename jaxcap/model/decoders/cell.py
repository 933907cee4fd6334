"""LSTM cells: Flax's, and one that is told what of its input stays the same."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxcap.model.decoders.products import FLOAT32, RoundedDense, dense

Carry = tuple[Float[Array, "B N H"], Float[Array, "B N H"]]


class RoundedLSTMCell(nn.Module):
    """`nn.OptimizedLSTMCell` with the same parameters, whose products read bfloat16."""

    features: int

    @nn.compact
    def __call__(
        self, carry: Carry, inputs: Float[Array, "B N X"]
    ) -> tuple[Carry, Float[Array, "B N H"]]:
        c, h = carry

        def gate(name: str) -> Array:
            x = RoundedDense(self.features, use_bias=False, name=f"i{name}")(inputs)
            init = nn.initializers.orthogonal()
            return x + RoundedDense(self.features, kernel_init=init, name=f"h{name}")(h)

        i, f, g, o = map(gate, "ifgo")
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * nn.tanh(g)
        h = nn.sigmoid(o) * nn.tanh(c)
        return (c, h), h


def optimized_cell(hidden_size: int, dtype: Any) -> nn.OptimizedLSTMCell | RoundedLSTMCell:
    """Flax's LSTM cell, computing in `dtype`; the carry is float32."""
    return (nn.OptimizedLSTMCell if dtype == FLOAT32 else RoundedLSTMCell)(hidden_size)


def orthogonal_gates(key: PRNGKeyArray, shape: tuple[int, int], dtype: Any) -> Array:
    """An orthogonal matrix for each of the four gates (Saxe et al. 2013), side by side."""
    size = shape[0]
    one = nn.initializers.orthogonal()
    gates = [one(k, (size, size), dtype) for k in jax.random.split(key, shape[1] // size)]
    return jnp.concatenate(gates, axis=1)


class LSTMCell(nn.Module):
    """Hochreiter and Schmidhuber 1997, with forget gates (Gers et al. 2000).

    i, f, o = σ(W x + U h + b), g = tanh(W x + U h + b); c' = f ⊙ c + i ⊙ g; h' = o ⊙ tanh(c').
    The four gates lie side by side, in the order i, f, g, o. Of an input [x; v] with a v that is
    the same at all times, W v is a constant, computed once by whoever knows v.

    Attributes:
      hidden_size: H, the width of c and h.
      dtype: what products are computed in; c and h are float32.
    """

    hidden_size: int
    dtype: Any = FLOAT32

    def setup(self) -> None:
        self.x = dense(4 * self.hidden_size, self.dtype, use_bias=False)
        self.h = dense(4 * self.hidden_size, self.dtype, kernel_init=orthogonal_gates)

    def zeros(self, features: Float[Array, "B P D"]) -> Carry:
        """The carry (c, h) of the beginning, `[B, 1, H]` each, for so many images."""
        zeros = jnp.zeros((features.shape[0], 1, self.hidden_size))
        return zeros, zeros

    def __call__(
        self,
        carry: Carry,
        x: Float[Array, "B N X"],
        constant: Float[Array, "B 1 G"] | float = 0.0,
    ) -> Carry:
        """Reads `x`; `constant` is the share in the gates of what does not change."""
        c, h = carry
        i, f, g, o = jnp.split(self.x(x) + self.h(h) + constant, 4, axis=-1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * nn.tanh(g)
        return c, nn.sigmoid(o) * nn.tanh(c)
