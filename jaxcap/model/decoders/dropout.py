"""Random numbers that depend on the image, not on the number of devices."""

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
    """Draw random numbers for this device's rows of the batch.

    Every device draws for the whole batch and keeps its own rows. So an image gets the same
    numbers whether one device holds the batch or several share it.

    Args:
      draw: returns random numbers of a given shape, from a key that all devices share.
      shape: of this device's shard; the first axis is the batch.
      axis_name: the mapped axis over which the batch is sharded, if any.
    """
    if axis_name is None:
        return draw(shape)
    rows = shape[0]
    everywhere = draw((rows * lax.axis_size(axis_name), *shape[1:]))
    return lax.dynamic_slice_in_dim(everywhere, lax.axis_index(axis_name) * rows, rows)


class Dropout(nn.Module):
    """Zero elements at random and scale up the others (Srivastava et al. 2014).

    On an unsharded batch the mask equals that of an `nn.Dropout` of the same name.

    Attributes:
      rate: probability of zeroing an element.
      axis_name: the mapped axis over which the batch is sharded, if any.
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
