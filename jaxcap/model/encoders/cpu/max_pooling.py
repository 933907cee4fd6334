"""Max-pooling as the maximum of shifted slices."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcap.model.encoders.windows import Padding, pad_widths, shifted_slices


def max_pool_shifted(
    x: Float[Array, "B H W C"], *, size: int, stride: int, padding: Padding
) -> Float[Array, "B h w C"]:
    """Max-pool; on a CPU its gradient is much faster than the window reduction's.

    If several pixels of a window share the maximum, they share the gradient. The window reduction
    gives it all to the first.
    """
    rows, columns = pad_widths(x, (size, size), stride, padding)
    padded = jnp.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=-jnp.inf)
    slices = (shifted for _, _, shifted in shifted_slices(padded, (size, size), stride))
    return functools.reduce(jnp.maximum, slices)
