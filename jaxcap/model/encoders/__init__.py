"""Convolutional encoders: normalised images `[B, S, S, 3]` to features `[B, P, D]`.

>>> spec = encoder_spec("resnet50")
>>> encoder = spec.build(dtype=jnp.bfloat16)
>>> images = spec.preprocessing.normalise(uint8_images)
>>> features = encoder.apply({"params": …, "batch_stats": …}, images, train=False)
"""

from jaxcap.model.encoders.registry import (
    ENCODERS,
    EncoderSpec,
    NameOf,
    Preprocessing,
    encoder_spec,
    frozen_stages,
)

__all__ = ["ENCODERS", "EncoderSpec", "NameOf", "Preprocessing", "encoder_spec", "frozen_stages"]
