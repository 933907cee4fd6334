"""Show, Attend and Tell (Xu et al. 2015), with soft attention.

https://arxiv.org/abs/1502.03044. Symbols follow the paper: `a` annotation vectors (the
image features, here projected to width A), `h` hidden state, `α` attention weights, `z` context.
Recognised words may be further annotation vectors (`word_annotations.py`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.model.decoders.base import Decoder
from jaxcap.model.decoders.cell import Carry, optimized_cell
from jaxcap.model.decoders.dropout import Dropout
from jaxcap.model.decoders.products import dense, product
from jaxcap.model.decoders.word_annotations import Copies, CopyScores, WordAnnotations
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.search.interface import NEVER
from jaxcap.text.vocabulary import PAD


class Context(NamedTuple):
    """The part of the computation on the image that all steps share.

    Attributes:
      annotations: a, the vectors to average, `[B, P, A]`; with K recognised words `[B, P + K, A]`.
      keys: Wₐ a + b, the projections that the hidden state is scored against; of the same shape.
      words: the ids of the K words, `PAD` of those that the image does not have, `[B, K]`; None
        without words.
    """

    annotations: Float[Array, "B P A"]
    keys: Float[Array, "B P A"]
    words: Int[Array, "B K"] | None = None

    @property
    def positions(self) -> int:
        """P, the number of annotation vectors that are positions of the image."""
        words = 0 if self.words is None else self.words.shape[1]
        return int(self.annotations.shape[1]) - words


class State(NamedTuple):
    """The input of the output layer, with or without a time axis.

    Attributes:
      z: the gated context.
      copies: the recognised words that may be copied, if any.
    """

    embedding: Float[Array, "B N *T E"]
    h: Float[Array, "B N *T H"]
    z: Float[Array, "B N *T A"]
    copies: Copies | None = None


class AttentionDecoder(Decoder[Carry, Context, State]):
    """An LSTM that reads, with each word, a weighted mean of the features
    at the image's positions.

    Attributes:
      attention_size: A, the width of annotations, keys and queries.
      scoring: `additive`, eᵢ = vᵀ tanh(Wₐ aᵢ + Wₕ h) (Bahdanau et al. 2014), or `dot`,
        eᵢ = (Wₐ aᵢ)ᵀ (Wₕ h) / √A (Vaswani et al. 2017).
      reads_words: read recognised words as well. Then there may be words without an image.
      word_dropout, image_dropout: the shares of words and of images that are withheld in training.
    """

    attention_size: int = 512
    scoring: Literal["additive", "dot"] = "additive"
    reads_words: bool = False
    word_dropout: float = 0.0
    image_dropout: float = 0.0

    def setup(self) -> None:
        super().setup()
        self.project = dense(self.attention_size, self.dtype)
        self.key = dense(self.attention_size, self.dtype)
        self.query = dense(self.attention_size, self.dtype, use_bias=False)
        if self.scoring == "additive":
            self.score = dense(1, self.dtype, use_bias=False)
        self.init_c = dense(self.hidden_size, self.dtype)
        self.init_h = dense(self.hidden_size, self.dtype)
        self.gate = dense(self.attention_size, self.dtype)
        self.cell = optimized_cell(self.hidden_size, self.dtype)
        self.output_h = dense(self.embedding_size, self.dtype)
        self.output_z = dense(self.embedding_size, self.dtype, use_bias=False)
        if self.reads_words:
            self.words = WordAnnotations(
                self.attention_size, self.word_dropout, self.dtype, self.axis_name
            )
            # The annotation vector at every position of an image that is not there.
            self.no_image = self.param(
                "no_image", nn.initializers.normal(0.02), (self.attention_size,)
            )
            self.copy_scores = CopyScores(self.attention_size, self.dtype)
            self.drop_image = Dropout(self.image_dropout, self.axis_name)

    def start(
        self,
        features: Float[Array, "B P D"] | None,
        words: RecognisedWords | None = None,
        *,
        train: bool,
    ) -> tuple[Carry, Context]:
        """Section 3.1.2: c₀ and h₀ from the mean annotation vector of the image's positions.

        Args:
          features: None for words without an image.
          words: for a decoder that reads words.
        """
        if words is None:
            assert features is not None
            a = self._positions(features, train=train)
        else:
            a = self._positions_if_any(features, words, train=train)
            of_words, ids = self.words(words, self.word_embed, train=train)
        mean = a.mean(axis=1, keepdims=True)  # (B, 1, A)
        carry = (jnp.tanh(self.init_c(mean)), jnp.tanh(self.init_h(mean)))
        if words is None:
            return carry, Context(a, self.key(a))
        a = jnp.concatenate([a, of_words], axis=1)
        return carry, Context(a, self.key(a), ids)

    def _positions(self, features: Float[Array, "B P D"], *, train: bool) -> Float[Array, "B P A"]:
        return self.drop_feature(nn.relu(self.project(features)), deterministic=not train)

    def _positions_if_any(
        self, features: Float[Array, "B P D"] | None, words: RecognisedWords, *, train: bool
    ) -> Float[Array, "B P A"]:
        images = words.ids.shape[0]
        if features is None:
            return jnp.broadcast_to(self.no_image, (images, 1, self.attention_size))
        a = self._positions(features, train=train)
        kept = self.drop_image(jnp.ones((images, 1, 1)), deterministic=not train)
        return jnp.where(kept > 0, a, self.no_image)

    def attend(
        self, h: Float[Array, "B N H"], context: Context
    ) -> tuple[Float[Array, "B N A"], Float[Array, "B N P"]]:
        """Equations 4 to 6 and 13: z = Σ αᵢ aᵢ with α = softmax(e); recognised words included."""
        query = self.query(h)  # (B, N, A)
        if self.scoring == "additive":
            both = jnp.tanh(query[:, :, None] + context.keys[:, None])  # (B, N, P, A)
            e = self.score(both)[..., 0]
        else:
            e = product("bna,bpa->bnp", query, context.keys, self.dtype)
            e = e / jnp.sqrt(self.attention_size)
        if context.words is not None:
            present = context.words != PAD
            seen = jnp.pad(present, ((0, 0), (context.positions, 0)), constant_values=True)
            e = jnp.where(seen[:, None], e, NEVER)
        weights = nn.softmax(e)
        return product("bnp,bpa->bna", weights, context.annotations, self.dtype), weights

    def advance(
        self, carry: Carry, tokens: Int[Array, "B N"], context: Context, *, train: bool
    ) -> tuple[Carry, tuple[State, Float[Array, "B N P"]]]:
        """Equations 1 to 3, with the gate β = σ(f_β(h)) of section 4.2.1, here one per channel."""
        _, h = carry
        z, weights = self.attend(h, context)
        z = nn.sigmoid(self.gate(h)) * z
        embedding = self.embed(tokens, train=train)
        carry, h = self.cell(carry, jnp.concatenate([embedding, z], axis=-1))
        return carry, (State(embedding, h, z), weights[..., : context.positions])

    def look(
        self, state: State, weights: Float[Array, "B N *T P"], context: Context, *, train: bool
    ) -> tuple[State, Float[Array, "B N *T P"]]:
        """Score the recognised words for copying."""
        if context.words is None:
            return state, weights
        annotations = context.annotations[:, context.positions :]
        scores = self.copy_scores(state.h, annotations, context.words != PAD)
        return state._replace(copies=Copies(scores, context.words)), weights

    def readout(self, state: State, *, train: bool) -> Float[Array, "B N *T V"]:
        """Equation 7, the deep output layer: Lₒ(E y + Lₕ h + L_z z); and words that are copied."""
        x = state.embedding + self.output_h(state.h) + self.output_z(state.z)
        logits = self.output(self.drop_output(x, deterministic=not train))
        return logits if state.copies is None else state.copies.added_to(logits)
