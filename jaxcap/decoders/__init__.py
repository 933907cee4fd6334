"""LSTM decoders: image features and the words so far to the next word."""

from __future__ import annotations

from typing import Any

from jaxcap.config import DecoderConfig
from jaxcap.decoders.attention import AttentionDecoder
from jaxcap.decoders.base import Decoder, OwnWords, StepOutput, repeat
from jaxcap.decoders.lstm import LSTMDecoder

__all__ = [
    "AttentionDecoder",
    "Decoder",
    "LSTMDecoder",
    "OwnWords",
    "StepOutput",
    "create_decoder",
    "repeat",
]


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
        "remat": remat,
        "axis_name": axis_name,
    }
    if config.name == "lstm":
        return LSTMDecoder(**common)
    return AttentionDecoder(attention_size=config.attention_size, scoring=config.scoring, **common)
