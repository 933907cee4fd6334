"""Stages: the parts of an encoder that are frozen or fine-tuned together.

The stage of a top-level module is its name up to the first underscore: `stage1_block0` and
`stage1_block1` belong to the stage `stage1`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from jax import lax
from jaxtyping import Array, Float


def stage_of(module_name: str) -> str:
    """Return the stage of a top-level module of an encoder."""
    return module_name.partition("_")[0]


def stages_between(stages: tuple[str, ...], begin: str | None, end: str | None) -> tuple[str, ...]:
    """Return the stages from `begin`, by default the first, up to but without `end`."""
    first = 0 if begin is None else stages.index(begin)
    return stages[first : len(stages) if end is None else stages.index(end)]


def run_stage(
    module: nn.Module,
    x: Float[Array, "B H W I"],
    *,
    train: bool,
    frozen_stages: tuple[str, ...],
    remat: bool = False,
) -> Float[Array, "B h w O"]:
    """Apply a named top-level module, frozen if its stage is.

    A frozen module normalises by its running statistics even in training. It passes no gradient:
    its own parameters get none, nor do those before it.

    Args:
      remat: keep only the input of a trainable module for the gradient, and recompute the rest
        (Chen et al. 2016, https://arxiv.org/abs/1604.06174).
    """
    assert module.name is not None
    call: Any = module  # modules share no signature
    if stage_of(module.name) in frozen_stages:
        return lax.stop_gradient(call(x, train=False))
    if remat:
        return nn.remat(lambda module, x: module(x, train=train))(module, x)
    return call(x, train=train)
