"""Attention on Attention for Image Captioning (Huang et al. 2019), AoANet.

https://arxiv.org/abs/1908.06954. Symbols as there: A the feature vectors, ā their mean, Q, K, V
queries, keys and values, v̂ an attended vector, I information, G its gate, h and m the LSTM's hidden
state and memory, c the context vector.
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
    """The image as the steps see it.

    Attributes:
      keys: what queries are compared with, `[B, P, A]`.
      values: what is averaged, `[B, P, A]`.
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
    """Multi-head attention f_mh-att: head i = softmax(Qᵢ Kᵢᵀ / √d) Vᵢ, the heads side by side.

    Returns:
      What was seen, and the weights, the mean of all heads'.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (queries, keys, values))
    e = product("bmhd,bphd->bhmp", q, k, dtype) / math.sqrt(q.shape[-1])
    weights = nn.softmax(e)
    seen = product("bhmp,bphd->bmhd", weights, v, dtype)
    return seen.reshape(queries.shape), weights.mean(axis=1)


class AttentionOnAttention(nn.Module):
    """What was asked and what was seen, joined, and what of that is of use.

    AoA = σ(W_q^g q + W_v^g v̂ + b^g) ⊙ (W_q^i q + W_v^i v̂ + b^i) (section 3.1). The two maps lie
    side by side, G's first.

    Attributes:
      size: A, the width of q, of v̂ and of the result.
      dtype: what products are computed in.
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
    """A' = LayerNorm(A + AoA(f_mh-att, W_Q A, W_K A, W_V A)): features ask each other.

    Section 3.2.1; there is no feed-forward layer.
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


class AoADecoder(Decoder):
    """Asks the image, several questions at a time, and keeps of the answers what is of use.

    Attributes:
      heads: h, parts of A that attend on their own; it divides `attention_size`.
      refiner_layers: layers in which the features are refined first; 0: they are not.
      feature_dropout: of the projected features, and of what each refining layer adds to them.
    """

    vocabulary_size: int  # type: ignore[misc]  # the base's fields are keyword-only
    hidden_size: int = 512
    embedding_size: int = 512
    attention_size: int = 512
    heads: int = 8
    refiner_layers: int = 2
    embedding_dropout: float = 0.0
    feature_dropout: float = 0.0
    output_dropout: float = 0.0

    def setup(self) -> None:
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
        self.word_embed = nn.Embed(self.vocabulary_size, self.embedding_size)
        self.cell = LSTMCell(self.hidden_size, self.dtype)
        self.output = dense(self.vocabulary_size, self.dtype)
        self.drop_feature = Dropout(self.feature_dropout, self.axis_name)
        self.drop_embedding = Dropout(self.embedding_dropout, self.axis_name)
        self.drop_output = Dropout(self.output_dropout, self.axis_name)

    def start(
        self, features: Float[Array, "B P D"], *, train: bool
    ) -> tuple[tuple[Carry, Float[Array, "B 1 A"]], Context]:
        """Section 3.2.1, the encoder. Cell, hidden state and context vector begin at zero."""
        a = nn.relu(self.project(features))
        a = self.drop_feature(a, deterministic=not train)
        for layer in self.refiner:
            a = layer(a, train=train)
        mean = a.mean(axis=1, keepdims=True)
        carry = self.cell.zeros(features), jnp.zeros_like(mean)
        return carry, Context(self.key(a), self.value(a), mean)

    def advance(
        self,
        carry: tuple[Carry, Float[Array, "B N A"]],
        tokens: Int[Array, "B N"],
        context: Context,
        *,
        train: bool,
    ) -> tuple[Any, tuple[Float[Array, "B N A"], Float[Array, "B N P"]]]:
        """Section 3.2.2: x = [Wₑ Π; ā + c₋₁]; h, m = LSTM(x); c = AoA(f_mh-att, W_Q h, K, V)."""
        lstm, c = carry
        word = self.drop_embedding(self.word_embed(tokens), deterministic=not train)
        lstm = self.cell(lstm, jnp.concatenate([word, context.mean + c], axis=-1))
        q = self.query(lstm[1])
        seen, weights = attend(q, context.keys, context.values, heads=self.heads, dtype=self.dtype)
        c = self.aoa(q, seen)
        return (lstm, c), (c, weights)

    def readout(self, state: Float[Array, "B N *T A"], *, train: bool) -> Float[Array, "B N *T V"]:
        """Section 3.2.2: p = softmax(Wₚ c), before the softmax."""
        return self.output(self.drop_output(state, deterministic=not train))
