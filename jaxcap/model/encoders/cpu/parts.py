"""Encode a batch a few images at a time on CPUs, where that is faster."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcap.model.encoders.conv import on_cpu

# Images at a time: two per core. With so few, the output of a layer is still in the cache when the
# next layer reads it; with fewer, small layers leave cores idle.
_PART = 2 * (os.cpu_count() or 1)


def encode_in_parts(
    module: nn.Module,
    images: Float[Array, "B S S 3"],
    encode: Callable[[Any, Float[Array, "b S S 3"]], Any] | None = None,
) -> Any:
    """Compute `encode(module, images)`; on a CPU, a few images at a time.

    Outside training no image affects another, so the features are the same. On a CPU this is 1.2
    (ResNet-50) to 1.5 times (EfficientNet-Lite0) faster.

    Args:
      module: an encoder, or a module with one.
      encode: returns arrays with an axis B in front; by default `module(images, train=False)`.
    """
    if encode is None:

        def encode(module: Any, images: Array) -> Array:
            features: Array = module(images, train=False)
            return features

    batch = images.shape[0]
    if module.is_initializing() or not on_cpu():
        return encode(module, images)
    # The batch of an exported program is symbolic; only 1 divides it for certain.
    limit = min(_PART, batch) if isinstance(batch, int) else 1
    part = next(n for n in range(limit, 0, -1) if batch % n == 0)
    if part == batch:
        return encode(module, images)

    def body(module: Any, carry: tuple[()], part: Array) -> tuple[tuple[()], Any]:
        return carry, encode(module, part)

    scan = nn.scan(
        body,
        variable_broadcast=["params", "batch_stats"],
        split_rngs={"params": False},
    )
    _, outputs = scan(module, (), images.reshape(-1, part, *images.shape[1:]))
    return jax.tree.map(lambda x: jnp.reshape(x, (batch, *x.shape[2:])), outputs)
