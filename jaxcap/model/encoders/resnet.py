"""Residual networks.

He et al. 2015, "Deep Residual Learning for Image Recognition",
https://arxiv.org/abs/1512.03385, table 1, in the two forms of published weights:

- torchvision's ("v1.5"; also timm's and Hugging Face's), of 18, 34, 50, 101 and 152 layers: the
  stride of a bottleneck sits in its 3×3 convolution, convolutions have no bias;
- Keras's, closer to the paper, which publishes 50, 101 and 152 layers only: the stride sits in
  the first 1×1 convolution, convolutions have a bias, and the normalisation's epsilon is
  1.001e-5.

Both pad images equally on every side. The classifier is omitted.

B images, S pixels a side, P = ceil(S / 32)² positions, D = 512 (18, 34 layers) or 2048 features.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcap.model.encoders.base import Encoder
from jaxcap.model.encoders.conv import ConvNorm, max_pool
from jaxcap.model.encoders.freezing import run_stage

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")

# A branch starts at zero and its block as the identity, which makes early training stable
# (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1).
_zero = nn.initializers.zeros


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (figure 5, left). Returns `width` features."""

    width: int
    stride: int = 1
    conv_norm: Any = ConvNorm

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], *, train: bool) -> Float[Array, "B h w O"]:
        conv1 = self.conv_norm(self.width, 3, self.stride, padding=1, name="conv1")
        conv2 = self.conv_norm(self.width, 3, padding=1, scale_init=_zero, name="conv2")
        y = nn.relu(conv1(x, train=train))
        y = conv2(y, train=train)
        if x.shape != y.shape:
            shortcut = self.conv_norm(self.width, 1, self.stride, padding=0, name="shortcut")
            x = shortcut(x, train=train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a shortcut (figure 5, right).

    Returns `4 * width` features.

    Attributes:
        stride_first: the stride sits in the first 1×1 convolution instead of in the 3×3.
    """

    width: int
    stride: int = 1
    conv_norm: Any = ConvNorm
    stride_first: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], *, train: bool) -> Float[Array, "B h w O"]:
        features = 4 * self.width
        stride1, stride2 = (self.stride, 1) if self.stride_first else (1, self.stride)
        conv1 = self.conv_norm(self.width, 1, stride1, padding=0, name="conv1")
        conv2 = self.conv_norm(self.width, 3, stride2, padding=1, name="conv2")
        conv3 = self.conv_norm(features, 1, padding=0, scale_init=_zero, name="conv3")
        y = nn.relu(conv1(x, train=train))
        y = nn.relu(conv2(y, train=train))
        y = conv3(y, train=train)
        if x.shape != y.shape:
            shortcut = self.conv_norm(features, 1, self.stride, padding=0, name="shortcut")
            x = shortcut(x, train=train)
        return nn.relu(x + y)


class ResNet(Encoder):
    """Encode images into a grid of features, row by row.

    Attributes:
        stage_sizes: number of blocks per stage (conv2_x, conv3_x, … of table 1); each stage after
            the first halves the grid and doubles the width.
        block: `BasicBlock` or `Bottleneck`.
        width: channels of the stem and of the first stage's 3×3 convolutions.
        small_inputs: a 3×3 stem of stride 2 without max-pooling, for images of 100 pixels or
            less; the grid is then S / 2ⁿ a side for n stages instead of S / 2ⁿ⁺¹.
        conv_norm: makes each convolution with its normalisation, like `ConvNorm`.
        coordinates: append two channels with the position of each pixel, −1 to 1 across and down
            (CoordConv, Liu et al. 2018), for captions that say where things are.
    """

    stage_sizes: tuple[int, ...]  # type: ignore[misc]  # the base's fields are keyword-only
    block: Any  # type: ignore[misc]
    width: int = 64
    conv_norm: Any = ConvNorm
    small_inputs: bool = False
    coordinates: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "B S S 3"], *, train: bool) -> Float[Array, "B P D"]:
        if self.coordinates:
            images = _with_coordinates(images)
        run = partial(run_stage, train=train, frozen_stages=self.frozen_stages, remat=self.remat)
        conv_norm = partial(self.conv_norm, dtype=self.dtype, axis_name=self.axis_name)
        side = 3 if self.small_inputs else 7
        stem = conv_norm(self.width, side, stride=2, padding=side // 2, name="stem")
        x = nn.relu(run(stem, images))  # [B, S/2, S/2, width]
        if not self.small_inputs:
            x = max_pool(x, size=3, stride=2, padding=1)
        for i, blocks in enumerate(self.stage_sizes):
            for j in range(blocks):
                block = self.block(
                    width=self.width * 2**i,
                    stride=2 if i > 0 and j == 0 else 1,
                    conv_norm=conv_norm,
                    name=f"stage{i + 1}_block{j}",
                )
                x = run(block, x)
        return x.reshape(x.shape[0], -1, x.shape[-1])  # [B, P, D]


def _with_coordinates(images: Float[Array, "B H W C"]) -> Float[Array, "B H W C+2"]:
    batch, height, width, _ = images.shape
    across, down = jnp.meshgrid(jnp.linspace(-1, 1, width), jnp.linspace(-1, 1, height))
    places = jnp.stack([across, down], axis=-1).astype(images.dtype)
    places = jnp.broadcast_to(places, (batch, height, width, 2))
    return jnp.concatenate([images, places], axis=-1)


def torchvision_name(module: tuple[str, ...]) -> str:
    """Return torchvision's name of a module.

    `("stage1_block0", "conv2", "norm")` is `"layer1.0.bn2"`.
    """
    *block, part, kind = module
    is_conv = kind == "conv"
    if not block:
        return "conv1" if is_conv else "bn1"
    stage, number = _stage_and_block(block[0])
    prefix = f"layer{stage}.{number}."
    if part == "shortcut":
        return prefix + ("downsample.0" if is_conv else "downsample.1")
    return prefix + (part if is_conv else part.replace("conv", "bn"))


def huggingface_name(module: tuple[str, ...]) -> str:
    """Return the name of a module in Hugging Face's Transformers.

    `("stage1_block0", "conv2", "norm")` is
    `"resnet.encoder.stages.0.layers.0.layer.1.normalization"`.
    """
    *block, part, kind = module
    leaf = "convolution" if kind == "conv" else "normalization"
    if not block:
        return f"resnet.embedder.embedder.{leaf}"
    stage, number = _stage_and_block(block[0])
    prefix = f"resnet.encoder.stages.{stage - 1}.layers.{number}."
    if part == "shortcut":
        return f"{prefix}shortcut.{leaf}"
    return f"{prefix}layer.{int(part.removeprefix('conv')) - 1}.{leaf}"


def keras_name(module: tuple[str, ...]) -> str:
    """Return Keras's name of a module, numbered as in table 1 (conv2_x is the first stage).

    `("stage1_block0", "conv2", "norm")` is `"conv2_block1_2_bn"`.
    """
    *block, part, kind = module
    leaf = "conv" if kind == "conv" else "bn"
    if not block:
        return f"conv1_{leaf}"
    stage, number = _stage_and_block(block[0])
    place = 0 if part == "shortcut" else int(part.removeprefix("conv"))
    return f"conv{stage + 1}_block{number + 1}_{place}_{leaf}"


def _stage_and_block(module: str) -> tuple[int, int]:
    """Parse `"stage1_block0"` as (1, 0)."""
    stage, _, block = module.removeprefix("stage").partition("_block")
    return int(stage), int(block)


LAYERS_18 = (2, 2, 2, 2)
LAYERS_34_50 = (3, 4, 6, 3)
LAYERS_101 = (3, 4, 23, 3)
LAYERS_152 = (3, 8, 36, 3)

ResNet18 = partial(ResNet, stage_sizes=LAYERS_18, block=BasicBlock)
ResNet34 = partial(ResNet, stage_sizes=LAYERS_34_50, block=BasicBlock)
ResNet50 = partial(ResNet, stage_sizes=LAYERS_34_50, block=Bottleneck)
ResNet101 = partial(ResNet, stage_sizes=LAYERS_101, block=Bottleneck)
ResNet152 = partial(ResNet, stage_sizes=LAYERS_152, block=Bottleneck)

_KerasResNet = partial(
    ResNet,
    block=partial(Bottleneck, stride_first=True),
    conv_norm=partial(ConvNorm, use_bias=True, epsilon=1.001e-5, momentum=0.99),
)
KerasResNet50 = partial(_KerasResNet, stage_sizes=LAYERS_34_50)
KerasResNet101 = partial(_KerasResNet, stage_sizes=LAYERS_101)
KerasResNet152 = partial(_KerasResNet, stage_sizes=LAYERS_152)

# Not in the paper: trains from scratch on a CPU, on drawn scenes of 80 pixels (a 5×5 grid).
ResNetSmall = partial(
    ResNet,
    stage_sizes=(1, 1, 1, 1),
    block=BasicBlock,
    width=16,
    small_inputs=True,
    coordinates=True,
)
