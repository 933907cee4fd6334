"""The model: an image encoder and a word decoder, trained together.

Read this file first. `__call__` is what training runs; `encode`, `start` and `step` are
the same computation cut up for search.

    B images   N captions of each   T tokens   S image side   P positions   D feature width
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from jaxcap.config import Config
from jaxcap.decoders import Decoder, StepOutput, create_decoder
from jaxcap.encoders import Preprocessing, encoder_spec


class Captioner(nn.Module):
    """A convolutional encoder and an LSTM decoder.

    Attributes:
      encoder: images, normalised `[B, S, S, 3]`, to features `[B, P, D]`.
      decoder: features and the words so far to the next word.
      preprocessing: how the encoder wants its pixels.
      train_encoder: False stops gradients and batch statistics at the features.
    """

    encoder: nn.Module
    decoder: Decoder
    preprocessing: Preprocessing
    train_encoder: bool = True

    def encode(
        self, images: UInt8[Array, "B S S 3"], *, train: bool = False
    ) -> Float[Array, "B P D"]:
        """Features of images as they come from disk; pixels are normalised here, on the device."""
        pixels = self.preprocessing.normalise(images)
        features = self.encoder(pixels, train=train and self.train_encoder)
        return features if self.train_encoder else jax.lax.stop_gradient(features)

    def start(self, features: Float[Array, "B P D"]) -> tuple[Any, Any]:
        """The decoder's first carry `[B, 1, …]` and its view of the image."""
        return self.decoder.start(features, train=False)

    def step(self, carry: Any, tokens: Int[Array, "B N"], context: Any) -> tuple[Any, StepOutput]:
        """One word further: `(carry, StepOutput)`, for any number N of captions per image."""
        return self.decoder.step(carry, tokens, context)

    def __call__(
        self,
        images: UInt8[Array, "B S S 3"],
        tokens: Int[Array, "B N T"],
        *,
        train: bool = False,
    ) -> StepOutput:
        """Teacher forcing: logits `[B, N, T, V]` of the word that follows each of `tokens`.

        An image is encoded once, whatever the number of its captions.
        """
        return self.decoder(self.encode(images, train=train), tokens, train=train)


def create_captioner(
    config: Config, vocabulary_size: int, *, axis_name: str | None = None
) -> Captioner:
    """The model that the configuration describes, without parameters yet.

    Args:
      axis_name: the mapped axis over which batch statistics are averaged, under `jax.pmap`.
    """
    spec = encoder_spec(config.encoder.name)
    return Captioner(
        encoder=spec.build(axis_name=axis_name),
        decoder=create_decoder(config.decoder, vocabulary_size),
        preprocessing=spec.preprocessing,
        train_encoder=config.encoder.trainable,
    )


def init_variables(model: Captioner, rng: PRNGKeyArray, *, image_size: int) -> dict[str, Any]:
    """Random `{"params": …, "batch_stats": …}` for square images of `image_size` pixels."""
    images = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
    tokens = jnp.zeros((1, 1, 2), jnp.int32)
    variables = jax.jit(model.init)(rng, images, tokens)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
