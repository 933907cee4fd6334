"""Encode a batch a few images at a time on CPUs, where that is faster."""

from __future__ import annotations

import os

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcap.model.encoders.conv import on_cpu

# Images at a time: one per core. With so few, the output of a layer is still in the cache when
# the next layer reads it.
_PART = os.cpu_count() or 1


def encode_in_parts(encoder: nn.Module, images: Float[Array, "B S S 3"]) -> Float[Array, "B P D"]:
    """Compute `encoder(images, train=False)`; on a CPU, a few images at a time.

    Outside training no image affects another, so the features are the same. On a CPU this is 1.2
    (ResNet-50) to 1.5 times (EfficientNet-Lite0) faster.
    """
    batch = images.shape[0]
    if encoder.is_initializing() or not on_cpu():
        return encoder(images, train=False)
    # The batch of an exported program is symbolic; only 1 divides it for certain.
    limit = min(_PART, batch) if isinstance(batch, int) else 1
    part = next(n for n in range(limit, 0, -1) if batch % n == 0)
    if part == batch:
        return encoder(images, train=False)

    def encode(encoder: nn.Module, carry: tuple[()], part: Array) -> tuple[tuple[()], Array]:
        return carry, encoder(part, train=False)

    scan = nn.scan(
        encode,
        variable_broadcast=["params", "batch_stats"],
        split_rngs={"params": False},
    )
    _, features = scan(encoder, (), images.reshape(-1, part, *images.shape[1:]))
    return jnp.reshape(features, (batch, *features.shape[2:]))
