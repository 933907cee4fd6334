"""The model: an image encoder and a word decoder, trained together.

Read this file first. Training runs `__call__`; search runs the same computation in parts:
`encode`, `start` and `step`. A model with a recogniser also reads words off the image, and
`encode_and_recognise` takes the place of `encode`.

    B images   N captions of each   T tokens   S image side   P positions   D feature width
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from jaxcap.config import Config
from jaxcap.messages.errors import InputError, did_you_mean
from jaxcap.model.decoders import Decoder, OwnWords, StepOutput, create_decoder, decoder_class
from jaxcap.model.encoders import Preprocessing, encoder_spec, frozen_stages
from jaxcap.model.encoders.base import Encoder
from jaxcap.model.encoders.cpu.parts import encode_in_parts
from jaxcap.model.encoders.freezing import stage_of, stages_between
from jaxcap.model.recogniser.recogniser import Recogniser, recognisable
from jaxcap.model.recogniser.words import RecognisedWords


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
      recogniser: recognises words for the decoder to read; None in a model without words.
    """

    encoder: Encoder
    decoder: Decoder
    preprocessing: Preprocessing
    train_encoder: bool = True
    train_batch_stats: bool = True
    recogniser: Recogniser | None = None

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
        pixels = self._normalise(images)
        if train and self.train_encoder:
            return self.encoder(pixels, train=self.train_batch_stats).astype(jnp.float32)
        features: Any = encode_in_parts(self.encoder, pixels).astype(jnp.float32)
        return features if self.train_encoder else jax.lax.stop_gradient(features)

    def encode_and_recognise(
        self, images: UInt8[Array, "B S S 3"], *, train: bool = False
    ) -> tuple[Float[Array, "B P D"], RecognisedWords | None]:
        """Encode images, and recognise their words if the model does.

        The stages before `recogniser.branch` are computed once for both. No gradient passes
        through the words.

        Raises:
          TypeError: the images are not uint8.
        """
        if self.recogniser is None:
            return self.encode(images, train=train), None
        pixels = self._normalise(images)
        if train and self.train_encoder:
            return self._both(pixels, train=self.train_batch_stats)
        features, words = encode_in_parts(
            self, pixels, lambda model, pixels: model._both(pixels, train=False)
        )
        return (features if self.train_encoder else jax.lax.stop_gradient(features)), words

    def detect(
        self,
        images: UInt8[Array, "B S S 3"],
        tokens: Int[Array, "B N T"],
        *,
        features: Float[Array, "B P D"] | None = None,
        train: bool = False,
        own_words: OwnWords | None = None,
    ) -> StepOutput:
        """Return a `Detection` of words in place of logits; takes the arguments of `__call__`."""
        recogniser = self.recogniser
        assert recogniser is not None
        pixels = self._normalise(images)
        x = encode_in_parts(self, pixels, lambda model, pixels: model._shared(pixels, train=False))
        x, published = jax.lax.stop_gradient(x), None
        if recogniser.trains:
            encoder: Any = self.encoder
            published = encoder(x, train=False, begin=recogniser.branch).astype(jnp.float32)
            published = jax.lax.stop_gradient(published)
        detection: Any = recogniser.detect(x, published)
        return StepOutput(detection, jnp.zeros((len(x), 0)))

    def start(
        self, features: Float[Array, "B P D"], words: RecognisedWords | None = None
    ) -> tuple[Any, Any]:
        """Return the decoder's first carry `[B, 1, …]` and the context that all steps share."""
        return self.decoder.start_with(features, words, train=False)

    def step(self, carry: Any, tokens: Int[Array, "B N"], context: Any) -> tuple[Any, StepOutput]:
        """Read one word of each caption: return `(carry, StepOutput)`."""
        return self.decoder.step(carry, tokens, context)

    def __call__(
        self,
        images: UInt8[Array, "B S S 3"] | None,
        tokens: Int[Array, "B N T"],
        *,
        features: Float[Array, "B P D"] | None = None,
        words: RecognisedWords | None = None,
        train: bool = False,
        own_words: OwnWords | None = None,
    ) -> StepOutput:
        """Predict the word after each of `tokens` (teacher forcing).

        Each image is encoded once, however many captions it has.

        Args:
          images: pixels, or None where `features` are given.
          tokens: captions, starting with `<bos>`.
          features: the encoder's features, computed earlier, in place of `images`.
          words: recognised words, computed earlier with `features`, or given without any image or
            in place of those that are recognised in `images`.
          own_words: for scheduled sampling: which tokens to replace with the model's predictions.

        Raises:
          TypeError: both or neither of `images` and `features` are given, or one has another
            type or rank.

        Returns:
          Logits `[B, N, T, V]` and attention weights `[B, N, T, P]`.
        """
        if images is not None and features is not None:
            raise TypeError("Captioner: give images or features, not both.")
        if images is not None:
            features, recognised = self.encode_and_recognise(images, train=train)
            words = recognised if words is None else words
        elif features is None and words is None:
            raise TypeError("Captioner: give images or features.")
        if features is not None and features.ndim != 3:
            raise TypeError(f"Captioner: features must be [B, P, D], not {list(features.shape)}.")
        return self.decoder(features, tokens, train=train, words=words, own_words=own_words)

    def _normalise(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B S S 3"]:
        if images.dtype != jnp.uint8:
            raise TypeError(
                f"Captioner.encode: images must be uint8 pixels from 0 to 255, [B, S, S, 3], not"
                f" {images.dtype} {list(images.shape)}. The captioner normalises them itself;"
                " pass precomputed features [B, P, D] as `features`."
            )
        return self.preprocessing.normalise(images)

    def _shared(self, pixels: Float[Array, "B S S 3"], *, train: bool) -> Float[Array, "B ..."]:
        """Return the input of the recogniser: the output of the stages that it shares, or of
        all."""
        assert self.recogniser is not None
        if self.recogniser.branch is None:
            return self.encoder(pixels, train=train)
        encoder: Any = self.encoder  # with `end`, which not every encoder has
        shared: Float[Array, "B ..."] = encoder(pixels, train=train, end=self.recogniser.branch)
        return shared

    def _both(
        self, pixels: Float[Array, "B S S 3"], *, train: bool
    ) -> tuple[Float[Array, "B P D"], RecognisedWords]:
        assert self.recogniser is not None
        shared = features = self._shared(pixels, train=train)
        if self.recogniser.branch is not None:
            encoder: Any = self.encoder
            features = encoder(shared, train=train, begin=self.recogniser.branch)
        return features.astype(jnp.float32), self.recogniser(shared)


def create_captioner(
    config: Config,
    vocabulary_size: int,
    *,
    words: Sequence[str] = (),
    axis_name: str | None = None,
) -> Captioner:
    """Make the configured model, without parameters.

    Args:
      words: the vocabulary by id, for a model that recognises words.
      axis_name: the mapped axis over which the batch is sharded, under `jax.pmap`.

    Raises:
      InputError: the encoder or decoder is unknown, the encoder has no stage
        `encoder.train_from`, words cannot be recognised as configured, or there is no attention
        for `train.attention_penalty`.
    """
    spec = encoder_spec(config.encoder.name)
    build = functools.partial(
        spec.build, dtype=jnp.dtype(config.encoder.dtype), axis_name=axis_name
    )
    recognises = config.recognition.words > 0
    penalty, decoder = config.train.attention_penalty, config.decoder.name
    if penalty and not decoder_class(decoder).has_attention:
        raise InputError(
            f"train.attention_penalty is {penalty}, but decoder.name is '{decoder}', which has no"
            " attention. Give --decoder.name attention, or no penalty."
        )
    return Captioner(
        encoder=build(
            frozen_stages=frozen_stages(config.encoder),
            remat=config.train.remat in ("encoder", "both"),
        ),
        decoder=create_decoder(
            config.decoder,
            vocabulary_size,
            reads_words=recognises,
            remat=config.train.remat in ("decoder", "both"),
            axis_name=axis_name,
        ),
        preprocessing=spec.preprocessing,
        train_encoder=config.encoder.trainable,
        train_batch_stats=config.encoder.batch_stats == "trained",
        recogniser=_create_recogniser(config, words, build) if recognises else None,
    )


def _create_recogniser(config: Config, words: Sequence[str], build: Any) -> Recogniser:
    """Make the recogniser, and check that the encoder never changes its input.

    Raises:
      InputError: the encoder has no such branch, or trains shared stages.
    """
    name, branch = config.encoder.name, config.recognition.branch
    create = functools.partial(
        Recogniser,
        recognisable(config.recognition, words),
        config.recognition.words,
        people_share=config.recognition.people_share,
    )
    if branch is None:
        if config.encoder.trainable:
            raise InputError(
                "recognition.words is above 0 and encoder.trainable is true, but words are"
                " recognised from the features that the encoder would change. Give the"
                " recogniser its own layers with --recognition.branch, or --encoder.no-trainable."
            )
        return create()
    spec = encoder_spec(name)
    if not spec.branches:
        raise InputError(
            f"recognition.branch is '{branch}', but encoder '{name}' cannot be branched off from."
            " Use an EfficientNet-Lite encoder, or give --encoder.no-trainable and no branch."
        )
    if branch not in spec.stages:
        raise InputError(
            f"recognition.branch is '{branch}', but encoder '{name}' has no such stage."
            f"{did_you_mean(branch, spec.stages)} Its stages: {', '.join(spec.stages)}."
        )
    trained = config.encoder.train_from
    if config.encoder.trainable and branch not in (*frozen_stages(config.encoder), trained):
        raise InputError(
            f"recognition.branch is '{branch}', but encoder.train_from is {trained!r}: training"
            " would change stages before the branch, which the recogniser shares. Give"
            f" --encoder.train-from {branch} or a later stage."
        )
    trains = config.recognition.trainable and config.train.objective == "word_detection"
    frozen = stages_between(spec.stages, None, branch if trains else None)
    return create(build(frozen_stages=frozen), branch)


def init_variables(
    model: Captioner,
    rng: PRNGKeyArray,
    *,
    image_size: int,
    encoder: Mapping[str, Any] | None = None,
    classifier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Initialise `{"params": …, "batch_stats": …}` for square images of `image_size` pixels.

    Args:
      encoder: pretrained `{"params": …, "batch_stats": …}` of the encoder. Only the decoder is then
        random, and gets the same numbers as it would without them. A recogniser's copy of the
        encoder gets the same weights.
      classifier: pretrained `{"kernel": [D, C], "bias": [C]}` of a recogniser's classifier.
    """
    images = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
    tokens = jnp.zeros((1, 1, 2), jnp.int32)
    if encoder is None:
        variables = jax.jit(model.init)(rng, images, tokens)
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    given = {name: {"encoder": jax.tree.map(jnp.asarray, tree)} for name, tree in encoder.items()}
    shape = jax.eval_shape(functools.partial(model.apply, method="encode"), given, images)
    # A Flax module's random numbers depend only on its path.
    others = jax.jit(functools.partial(model.init, method=_decode))(
        rng, jnp.zeros(shape.shape, shape.dtype), tokens
    )
    variables = {
        "params": {**given["params"], **others["params"]},
        "batch_stats": given.get("batch_stats", {}),
    }
    if model.recogniser is not None:
        variables = _with_recogniser(variables, model.recogniser, classifier)
    return variables


def _with_recogniser(
    variables: dict[str, Any], recogniser: Recogniser, classifier: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Give the recogniser its copy of the encoder, and its classifier."""
    filled = {name: {"recogniser": {}, **tree} for name, tree in variables.items()}
    if recogniser.encoder is not None:
        stages = recogniser.own_stages
        for tree in filled.values():
            # A buffer that appears twice in the state cannot be donated.
            copy = {
                stage: jax.tree.map(jnp.copy, leaves)
                for stage, leaves in tree["encoder"].items()
                if stage_of(stage) in stages
            }
            tree["recogniser"] = {**tree["recogniser"], "encoder": copy}
    if classifier is not None:
        parts = {
            **filled["params"]["recogniser"],
            "classifier": jax.tree.map(jnp.asarray, dict(classifier)),
        }
        filled["params"]["recogniser"] = parts
    if not filled["batch_stats"]["recogniser"]:
        del filled["batch_stats"]["recogniser"]
    return filled


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
    """Run all but the encoder."""
    words = None if model.recogniser is None else model.recogniser.read(features)
    return model.decoder(features, tokens, train=False, words=words)
