"""Knowing When to Look (Lu et al. 2017): spatial attention that may look away from the image.

https://arxiv.org/abs/1612.01887. Symbols as there: V the image features, v^g their mean, x the
LSTM's input, h and m its hidden state and memory cell, s the visual sentinel, g its gate, α̂ the
attention over positions and sentinel, β the sentinel's share of it, ĉ the adaptive context.

Attention depends on the current h only, and no later step depends on attention. So only the LSTM
is recurrent, and `look` computes attention for all times at once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.model.decoders.attention_scores import Scores
from jaxcap.model.decoders.base import Decoder
from jaxcap.model.decoders.cell import Carry, LSTMCell
from jaxcap.model.decoders.products import dense, product


class Context(NamedTuple):
    """The image, prepared once for all steps.

    Attributes:
      v: the features, `[B, P, H]`.
      keys: Wᵥ v, to compare states with, `[B, P, A]`.
      mean_gates: contribution of v^g to the gates of the LSTM, `[B, 1, 4H]`.
      mean_sentinel: contribution of v^g to the sentinel's gate, `[B, 1, H]`.
    """

    v: Float[Array, "B P H"]
    keys: Float[Array, "B P A"]
    mean_gates: Float[Array, "B 1 G"]
    mean_sentinel: Float[Array, "B 1 H"]


class State(NamedTuple):
    """One step of the LSTM: the word it read, h before the step, h and m after it."""

    word: Float[Array, "B N *T E"]
    before: Float[Array, "B N *T H"]
    h: Float[Array, "B N *T H"]
    m: Float[Array, "B N *T H"]


class AdaptiveDecoder(Decoder[Carry, Context, State]):
    """Each word comes from the image, from the LSTM's memory, or from a mixture of the two.

    Attention weights sum to 1 − β; the sentinel has the rest.

    Attributes:
      attention_size: A.
      scoring: `additive`, as in the paper, or `dot`; see `Scores`.
    """

    attention_size: int = 512
    scoring: Literal["additive", "dot"] = "additive"

    def setup(self) -> None:
        super().setup()
        size = self.hidden_size
        self.project = dense(size, self.dtype)
        self.project_mean = dense(self.embedding_size, self.dtype)
        self.mean_gates = dense(4 * size, self.dtype, use_bias=False)
        self.mean_sentinel = dense(size, self.dtype, use_bias=False)
        self.cell = LSTMCell(size, self.dtype)
        self.sentinel_x = dense(size, self.dtype, use_bias=False)
        self.sentinel_h = dense(size, self.dtype, use_bias=False)
        self.scores = Scores(self.attention_size, self.scoring, self.dtype)
        self.sentinel_key = dense(self.attention_size, self.dtype, use_bias=False)

    def start(self, features: Float[Array, "B P D"], *, train: bool) -> tuple[Carry, Context]:
        """Section 2.3, the encoder: vᵢ = ReLU(Wₐ aᵢ), v^g = ReLU(W_b Σ aᵢ / k)."""
        v = nn.relu(self.project(features))
        v = self.drop_feature(v, deterministic=not train)
        mean = nn.relu(self.project_mean(features.mean(axis=1, keepdims=True)))
        gates, sentinel = self.mean_gates(mean), self.mean_sentinel(mean)
        context = Context(v, self.scores.keys(v), gates, sentinel)
        return self.cell.zeros(features), context

    def advance(
        self, carry: Carry, tokens: Int[Array, "B N"], context: Context, *, train: bool
    ) -> tuple[Carry, tuple[State, Float[Array, "B N 0"]]]:
        """Run the LSTM on x = [w; v^g]; `look` computes the attention."""
        word = self.embed(tokens, train=train)
        m, h = self.cell(carry, word, context.mean_gates)
        return (m, h), (State(word, carry[1], h, m), jnp.zeros((*tokens.shape, 0)))

    def look(
        self,
        state: State,
        weights: Float[Array, "B N *T 0"],
        context: Context,
        *,
        train: bool,
    ) -> tuple[Float[Array, "B N *T H"], Float[Array, "B N *T P"]]:
        """Sections 2.2 and 2.3: attention over the positions and the sentinel.

        g = σ(Wₓ x + Wₕ h₋₁), s = g ⊙ tanh(m); α̂ = softmax([z; wᵀ tanh(Wₛ s + W_g h)]) with
        zᵢ = wᵀ tanh(Wᵥ vᵢ + W_g h). As α̂ᵢ = (1 − β) αᵢ, the paper's ĉ = β s + (1 − β) Σ αᵢ vᵢ is
        β s + Σ α̂ᵢ vᵢ.
        """
        shape = state.h.shape[:-1]  # (B, N) or (B, N, T)
        state = State(*(x.reshape(x.shape[0], -1, x.shape[-1]) for x in state))  # (B, M, …)
        gate = self.sentinel_x(state.word) + self.sentinel_h(state.before) + context.mean_sentinel
        s = nn.sigmoid(gate) * nn.tanh(state.m)
        queries = self.scores.queries(state.h)
        z = self.scores(queries, context.keys)
        z_sentinel = self.scores.pairs(queries, self.sentinel_key(s))
        shares = nn.softmax(jnp.concatenate([z, z_sentinel], axis=-1))  # (B, M, P + 1)
        weights, beta = shares[..., :-1], shares[..., -1:]
        c = beta * s + product("bmp,bph->bmh", weights, context.v, self.dtype)
        return (c + state.h).reshape(*shape, -1), weights.reshape(*shape, -1)

    def readout(self, state: Float[Array, "B N *T H"], *, train: bool) -> Float[Array, "B N *T V"]:
        """Section 2.3: p = softmax(Wₚ (ĉ + h)), before the softmax."""
        return self.output(self.drop_output(state, deterministic=not train))
