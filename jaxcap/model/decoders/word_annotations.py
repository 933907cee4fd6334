"""Recognised words as annotation vectors, which attention reads beside the image's positions.

You et al. 2016, "Image Captioning with Semantic Attention", https://arxiv.org/abs/1603.03925,
attend to the embeddings of recognised words, as here, but at each step apart from the image. In
Lu et al. 2018, "Neural Baby Talk", https://arxiv.org/abs/1803.09845, and Agrawal et al. 2019,
"nocaps", https://arxiv.org/abs/1812.08658, recognised objects reach words that no photograph of
the training set shows.

A word w with probability p becomes aʷ = relu(W [E w; p; logit p] + b), with the embedding E of the
decoder's own words, so that a word learned from text alone can be read off an image.

B images   K words of each   E embedding width   A annotation width
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxcap.model.decoders.dropout import Dropout
from jaxcap.model.decoders.products import FLOAT32, dense
from jaxcap.model.recogniser.words import RecognisedWords

_SURE = 0.999


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
    ) -> tuple[Float[Array, "B K A"], Bool[Array, "B K"]]:
        """Return the annotation vectors, and which of them there are."""
        p = jnp.asarray(words.probabilities)
        kept = Dropout(self.word_dropout, self.axis_name)(jnp.ones_like(p), deterministic=not train)
        bounded = jnp.clip(p, 1 - _SURE, _SURE)
        confidence = jnp.stack([p, jnp.log(bounded / (1 - bounded))], axis=-1)
        x = jnp.concatenate([embed(jnp.asarray(words.ids)), confidence], axis=-1)
        return nn.relu(dense(self.size, self.dtype)(x)), (p > 0) & (kept > 0)
