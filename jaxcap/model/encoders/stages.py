"""Stages: the parts of an encoder that are frozen or fine-tuned as one.

The stage of a top-level module is its name up to the first underscore: `stage1_block0` and
`stage1_block1` are the stage `stage1`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from jax import lax
from jaxtyping import Array, Float


def stage_of(module_name: str) -> str:
    """The stage that a top-level module of an encoder belongs to."""
    return module_name.partition("_")[0]


def run_stage(
    module: nn.Module,
    x: Float[Array, "B H W I"],
    *,
    train: bool,
    frozen_stages: tuple[str, ...],
    remat: bool = False,
) -> Float[Array, "B h w O"]:
    """Applies a named top-level module; as a part of a frozen stage it cannot move.

    A frozen module normalises by its running statistics even in training, and no gradient
    passes it: neither its own parameters nor those before it get any.

    With `remat` a learning module keeps nothing but its input for the gradient, and is computed
    again there (Chen et al. 2016, https://arxiv.org/abs/1604.06174).
    """
    assert module.name is not None
    call: Any = module  # modules have no common signature
    if stage_of(module.name) not in frozen_stages:
        if remat:
            return nn.remat(lambda module, x: module(x, train=train))(module, x)
        return call(x, train=train)
    return lax.stop_gradient(call(x, train=False))
