"""VGG, the encoder of Show, Attend and Tell.

Simonyan & Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
https://arxiv.org/abs/1409.1556, table 1, columns D (16 layers with weights) and E (19).
The last max-pooling and the classifier are omitted. The features are those of the last
convolution, after its ReLU (conv5_3 of column D), a grid of 14×14 at 224 pixels, as in
Xu et al. 2015, https://arxiv.org/abs/1502.03044, section 4.3.

torchvision and Keras publish weights of the same network, trained on differently scaled pixels.

B images, S pixels a side, P = floor(S / 16)² positions, D = 512 features.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
from jax import lax
from jaxtyping import Array, Float

from jaxcap.model.encoders.base import Encoder
from jaxcap.model.encoders.conv import Conv, max_pool, require_size

FEATURES = (64, 128, 256, 512, 512)  # of every convolution in a block
STAGES = tuple(f"block{i + 1}" for i in range(len(FEATURES)))


class VGG(Encoder):
    """Encode images into a grid of features, row by row.

    Attributes:
        block_sizes: number of 3×3 convolutions per block; 2×2 max-pooling separates blocks.

    Raises:
        InputError: a side of the images has fewer than 16 pixels.
    """

    block_sizes: tuple[int, ...]  # type: ignore[misc]  # the base's fields are keyword-only

    @nn.compact
    def __call__(self, images: Float[Array, "B S S 3"], *, train: bool) -> Float[Array, "B P 512"]:
        require_size(images, 16, "VGG")
        x = images
        for stage, features, convolutions in zip(STAGES, FEATURES, self.block_sizes, strict=True):
            if stage != STAGES[0]:
                x = max_pool(x, size=2, stride=2, padding=0)
            frozen = stage in self.frozen_stages
            block = partial(_block, stage=stage, features=features, convolutions=convolutions)
            x = (nn.remat(block) if self.remat and not frozen else block)(self, x)
            if frozen:
                x = lax.stop_gradient(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])  # [B, P, D]


def _block(vgg: VGG, x: Array, *, stage: str, features: int, convolutions: int) -> Array:
    for j in range(convolutions):
        name = f"{stage}_conv{j + 1}"
        conv = Conv(features, 3, padding=1, use_bias=True, dtype=vgg.dtype, name=name, parent=vgg)
        x = nn.relu(conv(x))
    return x


def torchvision_name(module: tuple[str, ...], *, block_sizes: tuple[int, ...]) -> str:
    """Return torchvision's name of a module.

    torchvision numbers all layers: a convolution and its ReLU are two, a max-pooling is one, so
    `("block2_conv1",)` is `"features.5"`.
    """
    block, conv = (int(number) for number in module[0].removeprefix("block").split("_conv"))
    before = sum(2 * convolutions + 1 for convolutions in block_sizes[: block - 1])
    return f"features.{before + 2 * (conv - 1)}"


def keras_name(module: tuple[str, ...]) -> str:
    """Return Keras's name of a module, which is the same."""
    return module[0]


VGG16_BLOCKS = (2, 2, 3, 3, 3)
VGG19_BLOCKS = (2, 2, 4, 4, 4)
