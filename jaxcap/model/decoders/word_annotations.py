"""Recognised words as annotation vectors, which attention reads beside the image's positions.

You et al. 2016, "Image Captioning with Semantic Attention", https://arxiv.org/abs/1603.03925,
attend to the embeddings of recognised words, as here, but at each step apart from the image. In
Lu et al. 2018, "Neural Baby Talk", https://arxiv.org/abs/1803.09845, and Agrawal et al. 2019,
"nocaps", https://arxiv.org/abs/1812.08658, recognised objects reach words that no photograph of
the training set shows.

A word w with probability p becomes aʷ = relu(W [E w; p; logit p] + b), with the embedding E of the
decoder's own words, so that a word learned from text alone can be read off an image.

Recognised words can also be copied into the caption, so that the decoder can say a word that it
has hardly ever said: Gu et al. 2016, "Incorporating Copying Mechanism in Sequence-to-Sequence
Learning", https://arxiv.org/abs/1603.06393; for captions Yao et al. 2017, "Incorporating Copying
Mechanism in Image Captioning for Learning Novel Objects", https://arxiv.org/abs/1708.05271.

B images   N captions of each   T tokens   K words of each image   E embedding width
A annotation width   H width of the hidden state   V vocabulary
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxcap.model.decoders.dropout import Dropout
from jaxcap.model.decoders.products import FLOAT32, dense, product
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.search.interface import NEVER
from jaxcap.text.vocabulary import PAD

_SURE = 0.999
_FIRST_BIAS = -4.0
"""Scores of copying start low, so that a decoder learns words first."""


class Copies(NamedTuple):
    """Which words a step may copy, and how much it wants to.

    Attributes:
      scores: ψ of each recognised word, `[B, N, K]`, comparable with the logits.
      ids: their ids.
    """

    scores: Float[Array, "B N *T K"]
    ids: Int[Array, "B K"]

    def added_to(self, logits: Float[Array, "B N *T V"]) -> Float[Array, "B N *T V"]:
        """Return log(exp g + exp ψ) for the words that may be copied, and g for all others.

        Gu et al. 2016, equations 5 to 8: saying and copying share one softmax.
        """
        between = (1,) * (logits.ndim - 2)
        ids = self.ids.reshape(self.ids.shape[0], *between, -1)
        return _with_copies(logits, self.scores, ids)


@partial(jnp.vectorize, signature="(v),(k),(k)->(v)")
def _with_copies(
    logits: Float[Array, " V"], scores: Float[Array, " K"], ids: Int[Array, " K"]
) -> Float[Array, " V"]:
    return logits.at[ids].add(nn.softplus(scores - logits[ids]))


class CopyScores(nn.Module):
    """Scores recognised words for copying: ψ = (W h)ᵀ (U aʷ) / √A + b.

    Attributes:
      size: A.
      dtype: the type of matrix products.
    """

    size: int
    dtype: Any = FLOAT32

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "B N *T H"],
        annotations: Float[Array, "B K A"],
        present: Bool[Array, "B K"],
    ) -> Float[Array, "B N *T K"]:
        """Return the scores; those of absent words never matter."""
        keys = dense(self.size, self.dtype)(annotations)
        query = dense(self.size, self.dtype)(h)
        scores = product("bn...a,bka->bn...k", query, keys, self.dtype) / jnp.sqrt(self.size)
        scores = scores + self.param("bias", nn.initializers.constant(_FIRST_BIAS), ())
        between = (1,) * (scores.ndim - 2)
        return jnp.where(present.reshape(present.shape[0], *between, -1), scores, NEVER)


class WordAnnotations(nn.Module):
    """Turns recognised words into annotation vectors.

    Attributes:
      size: A.
      word_dropout: share of words that are withheld in training, so that the decoder does not rely
        on the recogniser.
      dtype: the type of the matrix product.
      axis_name: the mapped axis over which the batch is sharded, under `jax.pmap`.
    """

    size: int
    word_dropout: float = 0.0
    dtype: Any = FLOAT32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, words: RecognisedWords, embed: nn.Embed, *, train: bool
    ) -> tuple[Float[Array, "B K A"], Int[Array, "B K"]]:
        """Return the annotation vectors and the words' ids, `PAD` of those that are withheld."""
        ids, p = map(jnp.asarray, words)
        kept = Dropout(self.word_dropout, self.axis_name)(jnp.ones_like(p), deterministic=not train)
        bounded = jnp.clip(p, 1 - _SURE, _SURE)
        confidence = jnp.stack([p, jnp.log(bounded / (1 - bounded))], axis=-1)
        x = jnp.concatenate([embed(ids), confidence], axis=-1)
        annotations = nn.relu(dense(self.size, self.dtype)(x))
        return annotations, jnp.where((p > 0) & (kept > 0), ids, PAD)
