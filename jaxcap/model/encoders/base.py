"""The fields and the call that all encoders share."""

from __future__ import annotations

from dataclasses import field

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcap.model.encoders.conv import Dtype


class Encoder(nn.Module):
    """Base of the encoders. A subclass defines `__call__`.

    Attributes:
      dtype: the type to compute in; parameters and statistics are float32.
      axis_name: mapped axis over which batch statistics are averaged, if any.
      frozen_stages: the stages that do not train, image side first (`encoders/freezing.py`).
      remat: recompute each stage for the gradient instead of storing its activations.
    """

    dtype: Dtype = field(default=jnp.float32, kw_only=True)
    axis_name: str | None = field(default=None, kw_only=True)
    frozen_stages: tuple[str, ...] = field(default=(), kw_only=True)
    remat: bool = field(default=False, kw_only=True)

    def __call__(self, images: Float[Array, "B S S 3"], *, train: bool) -> Float[Array, "B P D"]:
        """Encode normalised images into a grid of features, row by row.

        An encoder that a recogniser can branch off from (`recognition.branch`) has `stages`, the
        names of all in order, and also takes two of them, `begin` and `end`: it runs the stages
        from `begin` up to but without `end`, on the output of the stage before `begin`, and
        returns the output of the stage before `end`.
        """
        raise NotImplementedError
