"""Random numbers that are an image's own, whatever the number of devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped


def draw_rows(
    draw: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...], *, axis_name: str | None
) -> Shaped[Array, "B ..."]:
    """What `draw(shape)` gives, or this device's rows of what it gives for all devices together.

    One device that holds the whole batch and several that share it then draw the same numbers
    for the same image.

    Args:
      draw: makes random numbers of a shape, with a key that is the same on all devices.
      shape: of this device's share; the first axis is the batch's.
      axis_name: the mapped axis that the batch is shared out over, if any.
    """
    if axis_name is None:
        return draw(shape)
    rows = shape[0]
    everywhere = draw((rows * lax.axis_size(axis_name), *shape[1:]))
    return lax.dynamic_slice_in_dim(everywhere, lax.axis_index(axis_name) * rows, rows)


class Dropout(nn.Module):
    """Zeroes numbers at random (Srivastava et al. 2014) and scales up the others.

    Where the batch is whole, the numbers are those of `nn.Dropout` of the same name.

    Attributes:
      rate: probability of being zeroed.
      axis_name: the mapped axis that the batch is shared out over, if any.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        if self.rate == 0 or deterministic:
            return x
        rng, kept = self.make_rng("dropout"), 1 - self.rate

        def draw(shape: tuple[int, ...]) -> Any:
            return jax.random.bernoulli(rng, p=kept, shape=shape)

        mask = draw_rows(draw, x.shape, axis_name=self.axis_name)
        return lax.select(mask, x / kept, jnp.zeros_like(x))
