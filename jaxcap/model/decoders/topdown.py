"""Bottom-Up and Top-Down Attention (Anderson et al. 2018), the captioning model of section 3.2.

https://arxiv.org/abs/1707.07998. Symbols as there: v image features, v̄ their mean, h¹ and h² the
states of the attention LSTM and of the language LSTM, α attention, v̂ the attended feature, Π a
word. The features are a grid's, as in the paper's baseline, for encoders propose no regions; and
they are projected to width A first.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.model.decoders.attention_scores import Scores
from jaxcap.model.decoders.base import Decoder
from jaxcap.model.decoders.cell import Carry, LSTMCell
from jaxcap.model.decoders.dropout import Dropout
from jaxcap.model.decoders.products import dense, product


class Context(NamedTuple):
    """The image as the steps see it.

    Attributes:
      v: the features, `[B, P, A]`.
      keys: what they are compared by, `[B, P, A]`.
      mean: the share of v̄ in the gates of the attention LSTM, `[B, 1, 4H]`.
    """

    v: Float[Array, "B P A"]
    keys: Float[Array, "B P A"]
    mean: Float[Array, "B 1 G"]


class TopDownDecoder(Decoder):
    """One LSTM chooses where to look, a second one chooses the word by what is seen there.

    Attributes:
      scoring: `additive`, as in the paper, or `dot`; see `Scores`.
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
        self.scores = Scores(self.attention_size, self.scoring, self.dtype)
        self.mean_gates = dense(4 * self.hidden_size, self.dtype, use_bias=False)
        self.word_embed = nn.Embed(self.vocabulary_size, self.embedding_size)
        self.attention_lstm = LSTMCell(self.hidden_size, self.dtype)
        self.language_lstm = LSTMCell(self.hidden_size, self.dtype)
        self.output = dense(self.vocabulary_size, self.dtype)
        self.drop_feature = Dropout(self.feature_dropout, self.axis_name)
        self.drop_embedding = Dropout(self.embedding_dropout, self.axis_name)
        self.drop_output = Dropout(self.output_dropout, self.axis_name)

    def start(
        self, features: Float[Array, "B P D"], *, train: bool
    ) -> tuple[tuple[Carry, Carry], Context]:
        """Both LSTMs begin at zero."""
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
        word = self.drop_embedding(self.word_embed(tokens), deterministic=not train)
        x = jnp.concatenate([language[1], word], axis=-1)
        attention = self.attention_lstm(attention, x, context.mean)
        h = attention[1]
        weights = nn.softmax(self.scores(self.scores.queries(h), context.keys))
        seen = product("bnp,bpa->bna", weights, context.v, self.dtype)
        language = self.language_lstm(language, jnp.concatenate([seen, h], axis=-1))
        return (attention, language), (language[1], weights)

    def readout(self, state: Float[Array, "B N *T H"], *, train: bool) -> Float[Array, "B N *T V"]:
        """Section 3.2.2: p = softmax(Wₚ h² + bₚ), before the softmax."""
        return self.output(self.drop_output(state, deterministic=not train))
