"""SCA-CNN (Chen et al. 2017): attention over the channels and the positions of the image.

https://arxiv.org/abs/1611.05594, in the order C-S: channels first. Symbols as there: V the feature
map, v the means of its channels, h the LSTM's hidden state, β attention over channels, α attention
over positions, X the modulated features, y a word.

The paper attends to several layers of the CNN. Here an encoder returns only its last feature map,
so the decoder attends to that one, projected to A channels.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.model.decoders.base import Decoder
from jaxcap.model.decoders.cell import Carry, LSTMCell
from jaxcap.model.decoders.products import FLOAT32, dense, product


class Context(NamedTuple):
    """The image, prepared once for all steps.

    Attributes:
      features: V, `[B, P, A]`.
      means: v, the mean of each channel, `[B, 1, A]`.
    """

    features: Float[Array, "B P A"]
    means: Float[Array, "B 1 A"]


class State(NamedTuple):
    """The inputs of the output layer."""

    word: Float[Array, "B N *T E"]
    h: Float[Array, "B N *T H"]


class ChannelAttention(nn.Module):
    """β = softmax(w' b) with b = tanh((W_c ⊗ v + b_c) ⊕ W_hc h), the paper's Φ_c: `additive`.

    A channel is described by one number, its mean v; b has a column of k = A numbers for each
    channel. `dot` instead learns a key u for each channel: e = v uᵀ h.

    Attributes:
      size: A, the number of channels, and k.
      scoring: `additive`, `[B, N, A, A]` in memory, or `dot`, `[B, N, A]`.
      dtype: the type of matrix products.
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
        """Return the factors β A of the channels: 1 on average, to keep the scale of features."""
        query = self.query(h)
        if self.scoring == "additive":
            columns = self.mean(means[..., None])  # (B, 1, A channels, k)
            e = self.score(nn.tanh(columns + query[:, :, None]))[..., 0]
        else:
            e = means * query
        return self.size * nn.softmax(e)


class PositionAttention(nn.Module):
    """α = softmax(wᵀ tanh((W_s V' + b_s) ⊕ W_hs h)), the paper's Φ_s, of V' = β V: `additive`.

    `dot`: e = V'ᵀ W_hs h / √A, computed without storing V'.

    Attributes:
      size: A, the width in which states and positions are compared.
      scoring: `additive`, `[B, N, P, A]` in memory, or `dot`, `[B, N, P]`.
      dtype: the type of matrix products.
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


class SCADecoder(Decoder[Carry, Context, State]):
    """An LSTM that weights the channels of the features, then their positions, at each word.

    Attributes:
      attention_size: A.
      scoring: `additive`, as in the paper, or `dot`, which is many times faster.
    """

    attention_size: int = 512
    scoring: Literal["additive", "dot"] = "additive"

    def setup(self) -> None:
        super().setup()
        self.project = dense(self.attention_size, self.dtype)
        self.channels = ChannelAttention(self.attention_size, self.scoring, self.dtype)
        self.positions = PositionAttention(self.attention_size, self.scoring, self.dtype)
        self.init_c = dense(self.hidden_size, self.dtype)
        self.init_h = dense(self.hidden_size, self.dtype)
        self.cell = LSTMCell(self.hidden_size, self.dtype)
        self.output_h = dense(self.embedding_size, self.dtype)

    def start(self, features: Float[Array, "B P D"], *, train: bool) -> tuple[Carry, Context]:
        """Compute the first state from the mean feature, as Xu et al. 2015 do."""
        v = nn.relu(self.project(features))
        v = self.drop_feature(v, deterministic=not train)
        means = v.mean(axis=1, keepdims=True)
        carry = (nn.tanh(self.init_c(means)), nn.tanh(self.init_h(means)))
        return carry, Context(v, means)

    def advance(
        self, carry: Carry, tokens: Int[Array, "B N"], context: Context, *, train: bool
    ) -> tuple[Carry, tuple[State, Float[Array, "B N P"]]]:
        """β = Φ_c(h₋₁, V), α = Φ_s(h₋₁, β V), X = Σ αᵢ β ⊙ vᵢ; h = LSTM(h₋₁, X, y).

        The sum pools the last feature map over its positions, as the next layer of the CNN would.
        """
        h = carry[1]
        channels = self.channels(h, context.means)
        weights = self.positions(h, context.features, channels)
        x = channels * product("bnp,bpa->bna", weights, context.features, self.dtype)
        word = self.embed(tokens, train=train)
        carry = self.cell(carry, jnp.concatenate([word, x], axis=-1))
        return carry, (State(word, carry[1]), weights)

    def readout(self, state: State, *, train: bool) -> Float[Array, "B N *T V"]:
        """p = softmax(h, y) with a deep output layer, Lₒ(E y + Lₕ h), before the softmax."""
        x = state.word + self.output_h(state.h)
        return self.output(self.drop_output(x, deterministic=not train))
