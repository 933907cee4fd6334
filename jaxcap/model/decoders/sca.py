"""SCA-CNN (Chen et al. 2017): what of the image matters, by channel, and where, by position.

https://arxiv.org/abs/1611.05594, in the order C-S: channels first. Symbols as there: V the feature
map, v the means of its channels, h the LSTM's hidden state, β attention over channels, α attention
over positions, X the modulated features, y a word.

The paper attends in several layers of the CNN. Here an encoder hands over its last feature map
only, so that is the one that is attended; it is first projected to A channels.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

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
      features: V, `[B, P, A]`.
      means: v, of each channel, `[B, 1, A]`.
    """

    features: Float[Array, "B P A"]
    means: Float[Array, "B 1 A"]


class State(NamedTuple):
    """What the output layer reads."""

    word: Float[Array, "B N *T E"]
    h: Float[Array, "B N *T H"]


class ChannelAttention(nn.Module):
    """β = softmax(w' b) with b = tanh((W_c ⊗ v + b_c) ⊕ W_hc h), the paper's Φ_c: `additive`.

    The mean v of a channel is the one number that is known of it, and b has a column of k = A
    numbers for each channel. `dot` has instead a key u of the channel's own, learned: e = v uᵀ h.

    Attributes:
      size: A, the number of channels, and k.
      scoring: `additive`, `[B, N, A, A]` in memory, or `dot`, `[B, N, A]`.
      dtype: what products are computed in.
    """

    size: int
    scoring: Literal["additive", "dot"] = "additive"
    dtype: Any = FLOAT32

    def setup(self) -> None:
        self.query = dense(self.size, self.dtype, use_bias=False)
        if self.scoring == "additive":
            self.mean = dense(self.size, self.dtype)
            self.score = dense(1, self.dtype, use_bias=False)

    def __call__(
        self, h: Float[Array, "B N H"], means: Float[Array, "B 1 A"]
    ) -> Float[Array, "B N A"]:
        """The channels' factors β A: 1 on average, so that the features keep their scale."""
        query = self.query(h)
        if self.scoring == "additive":
            columns = self.mean(means[..., None])  # (B, 1, A channels, k)
            e = self.score(nn.tanh(columns + query[:, :, None]))[..., 0]
        else:
            e = means * query
        return self.size * nn.softmax(e)


class PositionAttention(nn.Module):
    """α = softmax(wᵀ tanh((W_s V' + b_s) ⊕ W_hs h)), the paper's Φ_s, of V' = β V: `additive`.

    `dot`: e = V'ᵀ W_hs h / √A, for which V' need not be made.

    Attributes:
      size: A, the width of what is compared.
      scoring: `additive`, `[B, N, P, A]` in memory, or `dot`, `[B, N, P]`.
      dtype: what products are computed in.
    """

    size: int
    scoring: Literal["additive", "dot"] = "additive"
    dtype: Any = FLOAT32

    def setup(self) -> None:
        self.query = dense(self.size, self.dtype, use_bias=False)
        if self.scoring == "additive":
            self.key = dense(self.size, self.dtype)
            self.score = dense(1, self.dtype, use_bias=False)

    def __call__(
        self,
        h: Float[Array, "B N H"],
        features: Float[Array, "B P A"],
        channels: Float[Array, "B N A"],
    ) -> Float[Array, "B N P"]:
        query = self.query(h)
        if self.scoring == "additive":
            modulated = channels[:, :, None] * features[:, None]  # (B, N, P, A)
            e = self.score(nn.tanh(self.key(modulated) + query[:, :, None]))[..., 0]
        else:
            e = product("bna,bpa->bnp", channels * query, features, self.dtype)
            e = e / math.sqrt(self.size)
        return nn.softmax(e)


class SCADecoder(Decoder):
    """At each word the LSTM weighs the channels of the features, and then their positions.

    Attributes:
      scoring: `additive`, as in the paper, or `dot`, which is many times faster.
    """

    vocabulary_size: int  # type: ignore[misc]  # the base's fields are keyword-only
    hidden_size: int = 512
    embedding_size: int = 512
    attention_size: int = 512
    scoring: Literal["additive", "dot"] = "additive"
    embedding_dropout: float = 0.0
    feature_dropout: float = 0.0
    output_dropout: float = 0.0

    def setup(self) -> None:
        self.project = dense(self.attention_size, self.dtype)
        self.channels = ChannelAttention(self.attention_size, self.scoring, self.dtype)
        self.positions = PositionAttention(self.attention_size, self.scoring, self.dtype)
        self.init_c = dense(self.hidden_size, self.dtype)
        self.init_h = dense(self.hidden_size, self.dtype)
        self.word_embed = nn.Embed(self.vocabulary_size, self.embedding_size)
        self.cell = LSTMCell(self.hidden_size, self.dtype)
        self.output_h = dense(self.embedding_size, self.dtype)
        self.output = dense(self.vocabulary_size, self.dtype)
        self.drop_feature = Dropout(self.feature_dropout, self.axis_name)
        self.drop_embedding = Dropout(self.embedding_dropout, self.axis_name)
        self.drop_output = Dropout(self.output_dropout, self.axis_name)

    def start(self, features: Float[Array, "B P D"], *, train: bool) -> tuple[Carry, Context]:
        """The first state is made of the mean feature, as in Xu et al. 2015."""
        v = nn.relu(self.project(features))
        v = self.drop_feature(v, deterministic=not train)
        means = v.mean(axis=1, keepdims=True)
        carry = (nn.tanh(self.init_c(means)), nn.tanh(self.init_h(means)))
        return carry, Context(v, means)

    def advance(
        self, carry: Carry, tokens: Int[Array, "B N"], context: Context, *, train: bool
    ) -> tuple[Carry, tuple[State, Float[Array, "B N P"]]]:
        """β = Φ_c(h₋₁, V), α = Φ_s(h₋₁, β V), X = Σ αᵢ β ⊙ vᵢ; h = LSTM(h₋₁, X, y).

        The last feature map is pooled over its positions, as the CNN would go on: hence the sum.
        """
        h = carry[1]
        channels = self.channels(h, context.means)
        weights = self.positions(h, context.features, channels)
        x = channels * product("bnp,bpa->bna", weights, context.features, self.dtype)
        word = self.drop_embedding(self.word_embed(tokens), deterministic=not train)
        carry = self.cell(carry, jnp.concatenate([word, x], axis=-1))
        return carry, (State(word, carry[1]), weights)

    def readout(self, state: State, *, train: bool) -> Float[Array, "B N *T V"]:
        """p = softmax(h, y) by a deep output layer, Lₒ(E y + Lₕ h), before the softmax."""
        x = state.word + self.output_h(state.h)
        return self.output(self.drop_output(x, deterministic=not train))
