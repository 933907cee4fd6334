"""Which stages of an encoder a configuration keeps as they are."""

from __future__ import annotations

from jaxcap.config import EncoderConfig
from jaxcap.errors import InputError, did_you_mean
from jaxcap.model.encoders import encoder_spec


def frozen_stages(config: EncoderConfig) -> tuple[str, ...]:
    """The stages before `config.train_from`, image side first; none without it.

    Raises:
      InputError: an unknown encoder, or one without that stage; the message lists its stages.
    """
    if config.train_from is None:
        return ()
    stages = encoder_spec(config.name).stages
    if config.train_from not in stages:
        raise InputError(
            f"encoder.train_from is '{config.train_from}', but encoder '{config.name}' has no such "
            f"stage.{did_you_mean(config.train_from, stages)} Its stages: {', '.join(stages)}."
        )
    return stages[: stages.index(config.train_from)]
