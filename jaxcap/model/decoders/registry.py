"""The decoders by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxcap.config import DecoderConfig
from jaxcap.config.extensions import is_extension, load_extension
from jaxcap.messages.errors import InputError, did_you_mean
from jaxcap.model.decoders.adaptive import AdaptiveDecoder
from jaxcap.model.decoders.aoa import AoADecoder
from jaxcap.model.decoders.attention import AttentionDecoder
from jaxcap.model.decoders.base import Decoder
from jaxcap.model.decoders.lstm import LSTMDecoder
from jaxcap.model.decoders.sca import SCADecoder
from jaxcap.model.decoders.topdown import TopDownDecoder

DECODERS: Mapping[str, type[Decoder[Any, Any, Any]]] = {
    "lstm": LSTMDecoder,
    "attention": AttentionDecoder,
    "topdown": TopDownDecoder,
    "adaptive": AdaptiveDecoder,
    "aoa": AoADecoder,
    "sca": SCADecoder,
}
"""The decoders by the names that `decoder.name` takes."""


def decoder_class(name: str) -> type[Decoder[Any, Any, Any]]:
    """Return the decoder of that name: a key of `DECODERS`, or a class `module:Class`.

    Raises:
      InputError: the name is unknown; the message lists the known ones.
    """
    if is_extension(name):
        found = load_extension(name, option="decoder.name")
        if not (isinstance(found, type) and issubclass(found, Decoder)) or found is Decoder:
            raise InputError(
                f"decoder.name is '{name}', which is not a subclass of"
                " jaxcap.model.decoders.Decoder; derive it from that."
            )
        return found
    if name not in DECODERS:
        raise InputError(
            f"decoder.name is '{name}', which is unknown.{did_you_mean(name, DECODERS)}"
            f" Known decoders: {', '.join(DECODERS)}; your own is module:Class."
        )
    return DECODERS[name]


def create_decoder(
    config: DecoderConfig,
    vocabulary_size: int,
    *,
    reads_words: bool = False,
    remat: bool = False,
    axis_name: str | None = None,
) -> Decoder[Any, Any, Any]:
    """Make the configured decoder, without parameters.

    Each option goes to the field of the same name, if the decoder has it.

    Args:
      reads_words: whether the decoder reads recognised words. Only decoders with a field of this
        name can.

    Raises:
      InputError: by `decoder_class`, or the decoder reads no words.
    """
    decoder = decoder_class(config.name)
    known = {field.name for field in dataclasses.fields(decoder)} - {"name", "dtype"}
    options = {k: v for k, v in dataclasses.asdict(config).items() if k in known}
    if reads_words:
        if "reads_words" not in known:
            raise InputError(
                f"decoder.name is '{config.name}', which reads no recognised words, but"
                " recognition.words is above 0. Give --decoder.name attention, or"
                " --recognition.words 0."
            )
        options["reads_words"] = True
    return decoder(
        vocabulary_size=vocabulary_size,
        dtype=jnp.dtype(config.dtype),
        remat=remat,
        axis_name=axis_name,
        **options,
    )
