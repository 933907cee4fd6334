"""Bottom-Up and Top-Down Attention (Anderson et al. 2018), the captioning model of section 3.2.

https://arxiv.org/abs/1707.07998. Symbols as there: v image features, v̄ their mean, h¹ and h² the
states of the attention LSTM and of the language LSTM, α attention, v̂ the attended feature, Π a
word. The features form a grid, as in the paper's baseline, because the encoders here propose no
regions. They are first projected to width A.
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
      v: the features, `[B, P, A]`.
      keys: Wᵥ v, to compare states with, `[B, P, A]`.
      mean: contribution of v̄ to the gates of the attention LSTM, `[B, 1, 4H]`.
    """

    v: Float[Array, "B P A"]
    keys: Float[Array, "B P A"]
    mean: Float[Array, "B 1 G"]


State = Float[Array, "B N *T H"]
"""h², the hidden state of the language LSTM."""


class TopDownDecoder(Decoder[tuple[Carry, Carry], Context, State]):
    """Two LSTMs: the first chooses where to look, the second chooses the word.

    Attributes:
      attention_size: A.
      scoring: `additive`, as in the paper, or `dot`; see `Scores`.
    """

    attention_size: int = 512
    scoring: Literal["additive", "dot"] = "additive"

    def setup(self) -> None:
        super().setup()
        self.project = dense(self.attention_size, self.dtype)
        self.scores = Scores(self.attention_size, self.scoring, self.dtype)
        self.mean_gates = dense(4 * self.hidden_size, self.dtype, use_bias=False)
        self.attention_lstm = LSTMCell(self.hidden_size, self.dtype)
        self.language_lstm = LSTMCell(self.hidden_size, self.dtype)

    def start(
        self, features: Float[Array, "B P D"], *, train: bool
    ) -> tuple[tuple[Carry, Carry], Context]:
        """Start both LSTMs at zero."""
        v = nn.relu(self.project(features))
        v = self.drop_feature(v, deterministic=not train)
        zeros = self.attention_lstm.zeros(features)
        mean = self.mean_gates(v.mean(axis=1, keepdims=True))
        return (zeros, zeros), Context(v, self.scores.keys(v), mean)

    def advance(
        self,
        carry: tuple[Carry, Carry],
        tokens: Int[Array, "B N"],
        context: Context,
        *,
        train: bool,
    ) -> tuple[tuple[Carry, Carry], tuple[Float[Array, "B N H"], Float[Array, "B N P"]]]:
        """Sections 3.2.1 and 3.2.2.

        x¹ = [h²; v̄; Wₑ Π]; aᵢ = wᵀ tanh(Wᵥ vᵢ + Wₕ h¹), α = softmax(a), v̂ = Σ αᵢ vᵢ;
        x² = [v̂; h¹].
        """
        attention, language = carry
        word = self.embed(tokens, train=train)
        x = jnp.concatenate([language[1], word], axis=-1)
        attention = self.attention_lstm(attention, x, context.mean)
        h = attention[1]
        weights = nn.softmax(self.scores(self.scores.queries(h), context.keys))
        seen = product("bnp,bpa->bna", weights, context.v, self.dtype)
        language = self.language_lstm(language, jnp.concatenate([seen, h], axis=-1))
        return (attention, language), (language[1], weights)

    def readout(self, state: State, *, train: bool) -> Float[Array, "B N *T V"]:
        """Section 3.2.2: p = softmax(Wₚ h² + bₚ), before the softmax."""
        return self.output(self.drop_output(state, deterministic=not train))
