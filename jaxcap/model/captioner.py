"""The model: an image encoder and a word decoder, trained together.

Read this file first. Training runs `__call__`; search runs the same computation in parts:
`encode`, `start` and `step`.

    B images   N captions of each   T tokens   S image side   P positions   D feature width
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from jaxcap.config import Config
from jaxcap.model.decoders import Decoder, OwnWords, StepOutput, create_decoder
from jaxcap.model.encoders import Preprocessing, encoder_spec, frozen_stages
from jaxcap.model.encoders.base import Encoder
from jaxcap.model.encoders.cpu.parts import encode_in_parts


class Captioner(nn.Module):
    """A convolutional encoder and an LSTM decoder.

    Attributes:
      encoder: maps normalised images `[B, S, S, 3]` to features `[B, P, D]`. It also
        knows its frozen stages and its compute dtype.
      decoder: predicts the next word from features and the words so far.
      preprocessing: the scaling of pixels that the encoder expects.
      train_encoder: if False, stop gradients at the features and freeze batch statistics.
      train_batch_stats: if False, use the stored statistics during training as well, without
        updating them; gradients still flow.
    """

    encoder: Encoder
    decoder: Decoder
    preprocessing: Preprocessing
    train_encoder: bool = True
    train_batch_stats: bool = True

    def __repr__(self) -> str:
        return f"Captioner({type(self.encoder).__name__} → {type(self.decoder).__name__})"

    def encode(
        self, images: UInt8[Array, "B S S 3"], *, train: bool = False
    ) -> Float[Array, "B P D"]:
        """Encode images into a grid of features.

        Pixels are normalised here, on the device. Features are always float32, and so are
        attention weights, logits and loss: sums over positions and words would lose precision
        in bfloat16, for little speed.

        Raises:
          TypeError: the images are not uint8.
        """
        if images.dtype != jnp.uint8:
            raise TypeError(
                f"Captioner.encode: images must be uint8 pixels from 0 to 255, [B, S, S, 3], not"
                f" {images.dtype} {list(images.shape)}. The captioner normalises them itself;"
                " pass precomputed features [B, P, D] as `features`."
            )
        pixels = self.preprocessing.normalise(images)
        if train and self.train_encoder:
            return self.encoder(pixels, train=self.train_batch_stats).astype(jnp.float32)
        features = encode_in_parts(self.encoder, pixels).astype(jnp.float32)
        return features if self.train_encoder else jax.lax.stop_gradient(features)

    def start(self, features: Float[Array, "B P D"]) -> tuple[Any, Any]:
        """Return the decoder's first carry `[B, 1, …]` and the context that all steps share."""
        return self.decoder.start(features, train=False)

    def step(self, carry: Any, tokens: Int[Array, "B N"], context: Any) -> tuple[Any, StepOutput]:
        """Read one word of each caption: return `(carry, StepOutput)`."""
        return self.decoder.step(carry, tokens, context)

    def __call__(
        self,
        images: UInt8[Array, "B S S 3"] | None,
        tokens: Int[Array, "B N T"],
        *,
        features: Float[Array, "B P D"] | None = None,
        train: bool = False,
        own_words: OwnWords | None = None,
    ) -> StepOutput:
        """Predict the word after each of `tokens` (teacher forcing).

        Each image is encoded once, however many captions it has.

        Args:
          images: pixels, or None where `features` are given.
          tokens: captions, starting with `<bos>`.
          features: the encoder's features, computed earlier, in place of `images`.
          own_words: for scheduled sampling: which tokens to replace with the model's predictions.

        Raises:
          TypeError: both or neither of `images` and `features` are given, or one has another
            type or rank.

        Returns:
          Logits `[B, N, T, V]` and attention weights `[B, N, T, P]`.
        """
        if images is not None and features is not None:
            raise TypeError("Captioner: give images or features, not both.")
        if features is None:
            if images is None:
                raise TypeError("Captioner: give images or features.")
            features = self.encode(images, train=train)
        if features.ndim != 3:
            raise TypeError(f"Captioner: features must be [B, P, D], not {list(features.shape)}.")
        return self.decoder(features, tokens, train=train, own_words=own_words)


def create_captioner(
    config: Config, vocabulary_size: int, *, axis_name: str | None = None
) -> Captioner:
    """Make the configured model, without parameters.

    Args:
      axis_name: the mapped axis over which the batch is sharded, under `jax.pmap`.

    Raises:
      InputError: the encoder or decoder is unknown, or the encoder has no stage
        `encoder.train_from`.
    """
    spec = encoder_spec(config.encoder.name)
    return Captioner(
        encoder=spec.build(
            dtype=jnp.dtype(config.encoder.dtype),
            axis_name=axis_name,
            frozen_stages=frozen_stages(config.encoder),
            remat=config.train.remat in ("encoder", "both"),
        ),
        decoder=create_decoder(
            config.decoder,
            vocabulary_size,
            remat=config.train.remat in ("decoder", "both"),
            axis_name=axis_name,
        ),
        preprocessing=spec.preprocessing,
        train_encoder=config.encoder.trainable,
        train_batch_stats=config.encoder.batch_stats == "trained",
    )


def init_variables(
    model: Captioner,
    rng: PRNGKeyArray,
    *,
    image_size: int,
    encoder: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Initialise `{"params": …, "batch_stats": …}` for square images of `image_size` pixels.

    Args:
      encoder: pretrained `{"params": …, "batch_stats": …}` of the encoder. Only the decoder is then
        random, and gets the same numbers as it would without them.
    """
    images = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
    tokens = jnp.zeros((1, 1, 2), jnp.int32)
    if encoder is None:
        variables = jax.jit(model.init)(rng, images, tokens)
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    given = {name: {"encoder": jax.tree.map(jnp.asarray, tree)} for name, tree in encoder.items()}
    shape = jax.eval_shape(functools.partial(model.apply, method="encode"), given, images)
    # A Flax module's random numbers depend only on its path.
    decoder = jax.jit(functools.partial(model.init, method=_decode))(
        rng, jnp.zeros(shape.shape, shape.dtype), tokens
    )
    return {
        "params": {**given["params"], **decoder["params"]},
        "batch_stats": given.get("batch_stats", {}),
    }


def variable_shapes(model: Captioner, *, image_size: int) -> dict[str, Any]:
    """Return the `jax.ShapeDtypeStruct`s of `init_variables`, without computing anything."""
    shapes: dict[str, Any] = jax.eval_shape(
        lambda: init_variables(model, jax.random.key(0), image_size=image_size)
    )
    return shapes


def encoder_shapes(model: Captioner, *, image_size: int) -> dict[str, Any]:
    """Return the `jax.ShapeDtypeStruct`s of the encoder's `{"params": …, "batch_stats": …}`."""
    variables = variable_shapes(model, image_size=image_size)
    return {name: tree["encoder"] for name, tree in variables.items() if "encoder" in tree}


def _decode(
    model: Captioner, features: Float[Array, "B P D"], tokens: Int[Array, "B N T"]
) -> StepOutput:
    return model.decoder(features, tokens, train=False)
