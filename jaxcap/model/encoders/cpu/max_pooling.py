"""Max-pooling as the maximum of shifted slices."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcap.model.encoders.windows import Padding, pad_widths


def max_pool_shifted(
    x: Float[Array, "B H W C"], *, size: int, stride: int, padding: Padding
) -> Float[Array, "B h w C"]:
    """Max-pool; on a CPU its gradient is much faster than the window reduction's.

    The maximum of each column of a window comes first, then that of the columns, so the gradient
    passes 2 `size` slices, not `size`². If several pixels of a window share the maximum, they share
    the gradient. The window reduction gives it all to the first.
    """
    rows, columns = pad_widths(x, (size, size), stride, padding)
    padded = jnp.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=-jnp.inf)
    height, width = (side - size + 1 for side in padded.shape[1:3])
    highest = functools.reduce(
        jnp.maximum, (padded[:, i : i + height : stride] for i in range(size))
    )
    return functools.reduce(
        jnp.maximum, (highest[:, :, j : j + width : stride] for j in range(size))
    )
