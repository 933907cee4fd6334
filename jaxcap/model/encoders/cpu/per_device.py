"""What JAX must be told where a gradient is written out by hand."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def nothing(x: Float[Array, "B H W C"]) -> Float[Array, ""]:
    """Zero; to JAX a number that differs between devices if `x` does.

    A kernel is shared by all devices and the images are not. JAX adds its gradient up over devices
    where the two meet, which must not be inside of gradients that are written out: added to the
    kernel before, this makes them meet there.
    """
    return jnp.where(jnp.isfinite(x.ravel()[0]), 0.0, 0.0)
