"""LSTM decoders: image features and the words so far to the next word."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxcap.config import DecoderConfig
from jaxcap.model.decoders.adaptive import AdaptiveDecoder
from jaxcap.model.decoders.aoa import AoADecoder
from jaxcap.model.decoders.attention import AttentionDecoder
from jaxcap.model.decoders.base import Decoder, OwnWords, StepOutput
from jaxcap.model.decoders.lstm import LSTMDecoder
from jaxcap.model.decoders.sca import SCADecoder
from jaxcap.model.decoders.topdown import TopDownDecoder

__all__ = [
    "AdaptiveDecoder",
    "AoADecoder",
    "AttentionDecoder",
    "Decoder",
    "LSTMDecoder",
    "OwnWords",
    "SCADecoder",
    "StepOutput",
    "TopDownDecoder",
    "create_decoder",
]

_SCORING: dict[str, Any] = {
    "attention": AttentionDecoder,
    "topdown": TopDownDecoder,
    "adaptive": AdaptiveDecoder,
    "sca": SCADecoder,
}


def create_decoder(
    config: DecoderConfig,
    vocabulary_size: int,
    *,
    remat: bool = False,
    axis_name: str | None = None,
) -> Decoder:
    """The decoder that the configuration names, without parameters yet."""
    common: dict[str, Any] = {
        "vocabulary_size": vocabulary_size,
        "hidden_size": config.hidden_size,
        "embedding_size": config.embedding_size,
        "embedding_dropout": config.embedding_dropout,
        "feature_dropout": config.feature_dropout,
        "output_dropout": config.output_dropout,
        "dtype": jnp.dtype(config.dtype),
        "remat": remat,
        "axis_name": axis_name,
    }
    if config.name == "lstm":
        return LSTMDecoder(**common)
    common["attention_size"] = config.attention_size
    if config.name == "aoa":
        return AoADecoder(heads=config.heads, refiner_layers=config.refiner_layers, **common)
    return _SCORING[config.name](scoring=config.scoring, **common)
