"""Inception-v3.

Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision",
https://arxiv.org/abs/1512.00567, table 1 and figures 5 to 7 and 10, in the form of published
weights. torchvision and Keras differ in only two details: at the edge, average-pooling divides by
all nine pixels (torchvision) or by those inside the image (Keras), and Keras's normalisation has
no scale. Both expect pixels from −1 to 1. The classifiers are omitted: the features are those of
the last mixed block.

B images, S pixels a side (299 in the paper, at least 75), P = 64 positions at 299 pixels,
D = 2048 features.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcap.model.encoders.base import Encoder
from jaxcap.model.encoders.conv import ConvNorm, avg_pool, max_pool, require_size
from jaxcap.model.encoders.freezing import run_stage


class Layer(NamedTuple):
    """A convolution with its normalisation and ReLU; one with a stride is not padded.

    `pooled` averages over 3×3 pixels between the two. The paper pools before the 1×1 convolution,
    which gives the same numbers: both are linear, one over pixels and one over channels. After the
    convolution, there are 4 to 10 times fewer channels to pool.
    """

    name: str
    features: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    pooled: bool = False


class Fork(NamedTuple):
    """Parallel branches over the same grid, whose channels are concatenated."""

    branches: tuple[Branch, ...]

    def layers(self) -> list[Layer]:
        """Return all its convolutions, in order."""
        found: list[Layer] = []
        for step in itertools.chain(*self.branches):
            if isinstance(step, Fork):
                found += step.layers()
            elif isinstance(step, Layer):
                found.append(step)
        return found


MaxPool: TypeAlias = Literal["max"]  # halves the grid, as the stride of a convolution does
Branch: TypeAlias = tuple[Layer | MaxPool | Fork, ...]  # from the input on


def fork(*branches: Branch) -> Fork:
    """Make a `Fork` with fewer parentheses."""
    return Fork(branches)


ACROSS, DOWN = (1, 7), (7, 1)


def _figure5(pool: int) -> Fork:
    """The block at 35×35; one branch has a 5×5 convolution, another two 3×3 instead."""
    return fork(
        (Layer("branch1x1", 64, 1),),
        (Layer("branch5x5_1", 48, 1), Layer("branch5x5_2", 64, 5)),
        (
            Layer("branch3x3dbl_1", 64, 1),
            Layer("branch3x3dbl_2", 96, 3),
            Layer("branch3x3dbl_3", 96, 3),
        ),
        (Layer("branch_pool", pool, 1, pooled=True),),
    )


def _figure6(inner: int) -> Fork:
    """The block at 17×17, with 7×7 convolutions factorised into 1×7 and 7×1."""
    return fork(
        (Layer("branch1x1", 192, 1),),
        (
            Layer("branch7x7_1", inner, 1),
            Layer("branch7x7_2", inner, ACROSS),
            Layer("branch7x7_3", 192, DOWN),
        ),
        (
            Layer("branch7x7dbl_1", inner, 1),
            Layer("branch7x7dbl_2", inner, DOWN),
            Layer("branch7x7dbl_3", inner, ACROSS),
            Layer("branch7x7dbl_4", inner, DOWN),
            Layer("branch7x7dbl_5", 192, ACROSS),
        ),
        (Layer("branch_pool", 192, 1, pooled=True),),
    )


def _figure7() -> Fork:
    """The block at 8×8, whose branches fork again."""
    return fork(
        (Layer("branch1x1", 320, 1),),
        (
            Layer("branch3x3_1", 384, 1),
            fork(
                (Layer("branch3x3_2a", 384, (1, 3)),),
                (Layer("branch3x3_2b", 384, (3, 1)),),
            ),
        ),
        (
            Layer("branch3x3dbl_1", 448, 1),
            Layer("branch3x3dbl_2", 384, 3),
            fork(
                (Layer("branch3x3dbl_3a", 384, (1, 3)),),
                (Layer("branch3x3dbl_3b", 384, (3, 1)),),
            ),
        ),
        (Layer("branch_pool", 192, 1, pooled=True),),
    )


# Figure 10: halve the grid and widen the channels, from 35×35 to 17×17, then to 8×8.
_FIGURE10_35 = fork(
    (Layer("branch3x3", 384, 3, 2),),
    (
        Layer("branch3x3dbl_1", 64, 1),
        Layer("branch3x3dbl_2", 96, 3),
        Layer("branch3x3dbl_3", 96, 3, 2),
    ),
    ("max",),
)
_FIGURE10_17 = fork(
    (Layer("branch3x3_1", 192, 1), Layer("branch3x3_2", 320, 3, 2)),
    (
        Layer("branch7x7x3_1", 192, 1),
        Layer("branch7x7x3_2", 192, ACROSS),
        Layer("branch7x7x3_3", 192, DOWN),
        Layer("branch7x7x3_4", 192, 3, 2),
    ),
    ("max",),
)

# torchvision's names: Mixed_5b and so on. The stages are the three sizes of the grid.
MIXED = {
    "mixed5_b": _figure5(32),
    "mixed5_c": _figure5(64),
    "mixed5_d": _figure5(64),
    "mixed6_a": _FIGURE10_35,
    "mixed6_b": _figure6(128),
    "mixed6_c": _figure6(160),
    "mixed6_d": _figure6(160),
    "mixed6_e": _figure6(192),
    "mixed7_a": _FIGURE10_17,
    "mixed7_b": _figure7(),
    "mixed7_c": _figure7(),
}
STEM = ("stem_1a", "stem_2a", "stem_2b", "stem_3b", "stem_4a")
STAGES = ("stem", "mixed5", "mixed6", "mixed7")


class Mixed(nn.Module):
    """One of the blocks of figures 5, 6, 7 and 10."""

    branches: Fork
    conv_norm: Any
    count_padding: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], *, train: bool) -> Float[Array, "B h w O"]:
        return self._join(self.branches, x, train)

    def _join(self, fork: Fork, x: Any, train: bool) -> Any:
        outputs = []
        for branch in fork.branches:
            y = x
            for step in branch:
                y = self._step(step, y, train)
            outputs.append(y)
        return jnp.concatenate(outputs, axis=-1)

    def _step(self, step: Layer | Fork | MaxPool, x: Any, train: bool) -> Any:
        if isinstance(step, Fork):
            return self._join(step, x, train)
        if isinstance(step, Layer):
            conv = self.conv_norm(
                step.features,
                step.kernel_size,
                step.stride,
                padding="SAME" if step.stride == 1 else 0,
                pool=partial(avg_pool, size=3, count_padding=self.count_padding)
                if step.pooled
                else None,
                name=step.name,
            )
            return nn.relu(conv(x, train=train))
        return max_pool(x, size=3, stride=2, padding=0)


class InceptionV3(Encoder):
    """Encode images into a grid of features, row by row.

    Attributes:
        conv_norm: makes each convolution with its normalisation, like `ConvNorm`.
        count_padding: as in `avg_pool`.

    Raises:
        InputError: a side of the images has fewer than 75 pixels.
    """

    conv_norm: Any = partial(ConvNorm, epsilon=1e-3)
    count_padding: bool = True

    @nn.compact
    def __call__(self, images: Float[Array, "B S S 3"], *, train: bool) -> Float[Array, "B P 2048"]:
        require_size(images, 75, "Inception-v3")
        run = partial(run_stage, train=train, frozen_stages=self.frozen_stages, remat=self.remat)
        conv_norm = partial(self.conv_norm, dtype=self.dtype, axis_name=self.axis_name)
        x = nn.relu(run(conv_norm(32, 3, 2, padding=0, name="stem_1a"), images))  # 149×149
        x = nn.relu(run(conv_norm(32, 3, padding=0, name="stem_2a"), x))  # 147×147
        x = nn.relu(run(conv_norm(64, 3, padding=1, name="stem_2b"), x))
        x = max_pool(x, size=3, stride=2, padding=0)  # 73×73
        x = nn.relu(run(conv_norm(80, 1, padding=0, name="stem_3b"), x))
        x = nn.relu(run(conv_norm(192, 3, padding=0, name="stem_4a"), x))  # 71×71
        x = max_pool(x, size=3, stride=2, padding=0)  # 35×35
        for name, mixed in MIXED.items():
            x = run(Mixed(mixed, conv_norm, self.count_padding, name=name), x)  # 35, 17, 8
        return x.reshape(x.shape[0], -1, x.shape[-1])  # [B, P, D]


def torchvision_name(module: tuple[str, ...]) -> str:
    """Return torchvision's name of a module.

    `("mixed5_b", "branch1x1", "norm")` is `"Mixed_5b.branch1x1.bn"`.
    """
    *place, kind = module
    stage, _, letter = place[0].partition("_")
    if stage == "stem":
        side = 1 if letter == "3b" else 3
        prefix = f"Conv2d_{letter}_{side}x{side}"
    else:
        prefix = f"Mixed_{stage.removeprefix('mixed')}{letter}.{place[1]}"
    return f"{prefix}.{'conv' if kind == 'conv' else 'bn'}"


def keras_name(module: tuple[str, ...]) -> str:
    """Return Keras's name of a module, a number in order of creation.

    `("mixed5_b", "branch1x1", "norm")` is `"batch_normalization_5"`, as five
    convolutions precede it. Keras itself writes `batch_normalization` for number 0, keeps
    counting for a second network in the same process, and counted from 1 in its published
    files. Only the order of the numbers in a file is reliable.
    """
    *place, kind = module
    number = _KERAS_ORDER.index(tuple(place))
    return f"{'conv2d' if kind == 'conv' else 'batch_normalization'}_{number}"


_KERAS_ORDER: list[tuple[str, ...]] = [(name,) for name in STEM]
_KERAS_ORDER += [(name, layer.name) for name, mixed in MIXED.items() for layer in mixed.layers()]

KerasInceptionV3 = partial(
    InceptionV3,
    conv_norm=partial(ConvNorm, epsilon=1e-3, momentum=0.99, use_scale=False),
    count_padding=False,
)
