"""LSTM cells: Flax's, and one that reads an input that is constant over time."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxcap.model.decoders.products import FLOAT32, dense

Carry = tuple[Float[Array, "B N H"], Float[Array, "B N H"]]
"""An LSTM's memory cell c and hidden state h."""


class RoundedLSTMCell(nn.Module):
    """`nn.OptimizedLSTMCell` with the same parameters, whose products read bfloat16."""

    features: int

    @nn.compact
    def __call__(
        self, carry: Carry, inputs: Float[Array, "B N X"]
    ) -> tuple[Carry, Float[Array, "B N H"]]:
        c, h = carry

        def gate(name: str) -> Array:
            x = dense(self.features, jnp.bfloat16, use_bias=False, name=f"i{name}")(inputs)
            init = nn.initializers.orthogonal()
            return x + dense(self.features, jnp.bfloat16, kernel_init=init, name=f"h{name}")(h)

        i, f, g, o = map(gate, "ifgo")
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * nn.tanh(g)
        h = nn.sigmoid(o) * nn.tanh(c)
        return (c, h), h


def optimized_cell(hidden_size: int, dtype: Any) -> nn.OptimizedLSTMCell | RoundedLSTMCell:
    """Make Flax's LSTM cell, computing in `dtype` with a float32 carry."""
    return (nn.OptimizedLSTMCell if dtype == FLOAT32 else RoundedLSTMCell)(hidden_size)


def orthogonal_gates(key: PRNGKeyArray, shape: tuple[int, int], dtype: Any) -> Array:
    """Initialise four orthogonal matrices side by side, one per gate (Saxe et al. 2013)."""
    size = shape[0]
    one = nn.initializers.orthogonal()
    gates = [one(k, (size, size), dtype) for k in jax.random.split(key, shape[1] // size)]
    return jnp.concatenate(gates, axis=1)


class LSTMCell(nn.Module):
    """An LSTM (Hochreiter and Schmidhuber 1997) with forget gates (Gers et al. 2000).

    i, f, o = σ(W x + U h + b), g = tanh(W x + U h + b); c' = f ⊙ c + i ⊙ g; h' = o ⊙ tanh(c').
    The four gates lie side by side, in the order i, f, g, o. If part v of an input [x; v] is the
    same at all times, the caller computes W v once and passes it as a constant.

    Attributes:
      hidden_size: H, the width of c and h.
      dtype: the type of matrix products; c and h are float32.
    """

    hidden_size: int
    dtype: Any = FLOAT32

    def setup(self) -> None:
        self.x = dense(4 * self.hidden_size, self.dtype, use_bias=False)
        self.h = dense(4 * self.hidden_size, self.dtype, kernel_init=orthogonal_gates)

    def zeros(self, features: Float[Array, "B P D"]) -> Carry:
        """Return an initial carry (c, h) of zeros, `[B, 1, H]` each."""
        zeros = jnp.zeros((features.shape[0], 1, self.hidden_size))
        return zeros, zeros

    def __call__(
        self,
        carry: Carry,
        x: Float[Array, "B N X"],
        constant: Float[Array, "B 1 G"] | float = 0.0,
    ) -> Carry:
        """Read `x`; `constant` is the contribution W v of the constant input to the gates."""
        c, h = carry
        i, f, g, o = jnp.split(self.x(x) + self.h(h) + constant, 4, axis=-1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * nn.tanh(g)
        return c, nn.sigmoid(o) * nn.tanh(c)
