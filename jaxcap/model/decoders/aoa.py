"""Attention on Attention for Image Captioning (Huang et al. 2019), AoANet.

https://arxiv.org/abs/1908.06954. Symbols as there: A the feature vectors, ā their mean, Q, K, V
queries, keys and values, v̂ an attended vector, I information, G its gate, h and m the LSTM's
hidden state and memory, c the context vector.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.model.decoders.base import Decoder
from jaxcap.model.decoders.cell import Carry, LSTMCell
from jaxcap.model.decoders.dropout import Dropout
from jaxcap.model.decoders.products import FLOAT32, dense, product


class Context(NamedTuple):
    """The image, prepared once for all steps.

    Attributes:
      keys: K, the vectors to compare queries with, `[B, P, A]`.
      values: V, the vectors to average, `[B, P, A]`.
      mean: ā, `[B, 1, A]`.
    """

    keys: Float[Array, "B P A"]
    values: Float[Array, "B P A"]
    mean: Float[Array, "B 1 A"]


def attend(
    queries: Float[Array, "B M A"],
    keys: Float[Array, "B P A"],
    values: Float[Array, "B P A"],
    *,
    heads: int,
    dtype: Any,
) -> tuple[Float[Array, "B M A"], Float[Array, "B M P"]]:
    """Multi-head attention f_mh-att: head i = softmax(Qᵢ Kᵢᵀ / √d) Vᵢ, heads concatenated.

    Returns:
      The attended vectors, and the attention weights averaged over heads.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (queries, keys, values))
    e = product("bmhd,bphd->bhmp", q, k, dtype) / math.sqrt(q.shape[-1])
    weights = nn.softmax(e)
    seen = product("bhmp,bphd->bmhd", weights, v, dtype)
    return seen.reshape(queries.shape), weights.mean(axis=1)


class AttentionOnAttention(nn.Module):
    """Join a query and its attended vector, and gate the useful part of them.

    AoA = σ(W_q^g q + W_v^g v̂ + b^g) ⊙ (W_q^i q + W_v^i v̂ + b^i) (section 3.1). The weights of G
    and I lie side by side, G first.

    Attributes:
      size: A, the width of q, of v̂ and of the result.
      dtype: the type of matrix products.
    """

    size: int
    dtype: Any = FLOAT32

    def setup(self) -> None:
        self.q = dense(2 * self.size, self.dtype)
        self.v = dense(2 * self.size, self.dtype, use_bias=False)

    def __call__(
        self, queries: Float[Array, "B M A"], seen: Float[Array, "B M A"]
    ) -> Float[Array, "B M A"]:
        g, i = jnp.split(self.q(queries) + self.v(seen), 2, axis=-1)
        return nn.sigmoid(g) * i


class RefiningLayer(nn.Module):
    """Self-attention over features: A' = LayerNorm(A + AoA(f_mh-att, W_Q A, W_K A, W_V A)).

    Section 3.2.1; it has no feed-forward layer.
    """

    size: int
    heads: int
    dropout: float = 0.0
    dtype: Any = FLOAT32
    axis_name: str | None = None

    def setup(self) -> None:
        self.qkv = dense(3 * self.size, self.dtype, use_bias=False)
        self.aoa = AttentionOnAttention(self.size, self.dtype)
        self.norm = nn.LayerNorm()
        self.drop = Dropout(self.dropout, self.axis_name)

    def __call__(self, a: Float[Array, "B P A"], *, train: bool) -> Float[Array, "B P A"]:
        q, k, v = jnp.split(self.qkv(a), 3, axis=-1)
        seen, _ = attend(q, k, v, heads=self.heads, dtype=self.dtype)
        found = self.drop(self.aoa(q, seen), deterministic=not train)
        return self.norm(a + found)


AoACarry = tuple[Carry, Float[Array, "B N A"]]
"""The LSTM's carry and the context vector c."""
State = Float[Array, "B N *T A"]
"""c, the context vector."""


class AoADecoder(Decoder[AoACarry, Context, State]):
    """An LSTM whose multi-head attention over the image is gated by its relevance.

    Attributes:
      attention_size: A.
      heads: number of attention heads; it divides `attention_size`.
      refiner_layers: layers of self-attention that refine the features first.
      feature_dropout: on the projected features, and on the output of each refining layer.
    """

    attention_size: int = 512
    heads: int = 8
    refiner_layers: int = 2

    def setup(self) -> None:
        super().setup()
        size = self.attention_size
        self.project = dense(size, self.dtype)
        self.refiner = [
            RefiningLayer(size, self.heads, self.feature_dropout, self.dtype, self.axis_name)
            for _ in range(self.refiner_layers)
        ]
        self.query = dense(size, self.dtype, use_bias=False)
        self.key = dense(size, self.dtype, use_bias=False)
        self.value = dense(size, self.dtype, use_bias=False)
        self.aoa = AttentionOnAttention(size, self.dtype)
        self.cell = LSTMCell(self.hidden_size, self.dtype)

    def start(self, features: Float[Array, "B P D"], *, train: bool) -> tuple[AoACarry, Context]:
        """Section 3.2.1, the encoder; memory, hidden state and context vector start at zero."""
        a = nn.relu(self.project(features))
        a = self.drop_feature(a, deterministic=not train)
        for layer in self.refiner:
            a = layer(a, train=train)
        mean = a.mean(axis=1, keepdims=True)
        carry = self.cell.zeros(features), jnp.zeros_like(mean)
        return carry, Context(self.key(a), self.value(a), mean)

    def advance(
        self,
        carry: AoACarry,
        tokens: Int[Array, "B N"],
        context: Context,
        *,
        train: bool,
    ) -> tuple[AoACarry, tuple[Float[Array, "B N A"], Float[Array, "B N P"]]]:
        """Section 3.2.2: x = [Wₑ Π; ā + c₋₁]; h, m = LSTM(x); c = AoA(f_mh-att, W_Q h, K, V)."""
        lstm, c = carry
        word = self.embed(tokens, train=train)
        lstm = self.cell(lstm, jnp.concatenate([word, context.mean + c], axis=-1))
        q = self.query(lstm[1])
        seen, weights = attend(q, context.keys, context.values, heads=self.heads, dtype=self.dtype)
        c = self.aoa(q, seen)
        return (lstm, c), (c, weights)

    def readout(self, state: State, *, train: bool) -> Float[Array, "B N *T V"]:
        """Section 3.2.2: p = softmax(Wₚ c), before the softmax."""
        return self.output(self.drop_output(state, deterministic=not train))
