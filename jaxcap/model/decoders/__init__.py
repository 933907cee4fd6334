"""LSTM decoders: image features and the words so far to the next word."""

from jaxcap.model.decoders.adaptive import AdaptiveDecoder
from jaxcap.model.decoders.aoa import AoADecoder
from jaxcap.model.decoders.attention import AttentionDecoder
from jaxcap.model.decoders.base import Decoder, OwnWords, StepOutput
from jaxcap.model.decoders.lstm import LSTMDecoder
from jaxcap.model.decoders.registry import DECODERS, create_decoder, decoder_class
from jaxcap.model.decoders.sca import SCADecoder
from jaxcap.model.decoders.topdown import TopDownDecoder

__all__ = [
    "DECODERS",
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
    "decoder_class",
]
