"""Convolutions, each written in the way its device likes.

GPUs and TPUs want `lax.conv_general_dilated`. On a CPU, XLA runs depthwise convolutions,
the gradients of 1×1 convolutions and those of max-pooling many times slower than it needs
to, so there the same sums are written as shifted multiply-adds, matrix products and maxima.
Both ways compute the same numbers from the same parameters (kernels are always
`[height, width, in / groups, out]`), so a checkpoint does not know where it was made.

Images are `[B, H, W, C]`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxcap.errors import InputError
from jaxcap.model.encoders.cpu import winograd
from jaxcap.model.encoders.cpu.per_device import nothing
from jaxcap.model.encoders.normalisation import BatchNorm

# "SAME" is TensorFlow's: the output is ceil(size / stride), an odd pixel of padding goes to
# the bottom and right. A number is PyTorch's: as many pixels on every side.
Padding: TypeAlias = Literal["SAME"] | int
Dtype: TypeAlias = Any
_Pads: TypeAlias = tuple[tuple[int, int], tuple[int, int]]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# He et al. 2015, "Delving Deep into Rectifiers", eq. 10, over the outputs as in He et al. 2015,
# "Deep Residual Learning".
_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


# Images whose products the gradient of a depthwise kernel adds up at once.
_IMAGES = 16

_platform: ContextVar[str | None] = ContextVar("_platform", default=None)


def on_cpu() -> bool:
    """True if computations go to the CPU, decided while JAX traces."""
    # Simpler than `lax.platform_dependent`, which traces and differentiates both forms.
    return (_platform.get() or jax.default_backend()) == "cpu"


@contextlib.contextmanager
def written_for(platform: str) -> Iterator[None]:
    """Within it JAX traces for this platform, not for that of this machine: `"cpu"` or other."""
    before = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(before)


def conv(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw I_per_group O"],
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    groups: int = 1,
) -> Float[Array, "B h w O"]:
    """A 2-D convolution (cross-correlation) by XLA's own operator, on any device."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=_pad_widths(x, kernel.shape[:2], stride, padding),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def depthwise_conv_shifted(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw 1 C"],
    *,
    stride: int = 1,
    padding: Padding = "SAME",
) -> Float[Array, "B h w C"]:
    """A convolution of every channel by itself, as a sum of shifted multiply-adds.

    Equal to `conv(..., groups=C)`; 6 to 27 times faster on a CPU. Its gradients are written
    out: those that XLA derives from the sum take two to six times as long.
    """
    rows, columns = _pad_widths(x, kernel.shape[:2], stride, padding)
    # Summed in float32: in bfloat16 every term would lose digits anew.
    weights = kernel[:, :, 0].astype(jnp.float32) + nothing(x)
    return _depthwise(x, weights, stride, (rows, columns)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(
    x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C"], stride: int, pads: _Pads
) -> Float[Array, "B h w C"]:
    """y[p] = Σᵢ x[stride · p + i] kernel[i], of the padded x, in float32."""
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    shifts = _shifts(padded, (kernel.shape[0], kernel.shape[1]), stride)
    return functools.reduce(jnp.add, (shifted * kernel[i, j] for i, j, shifted in shifts))


def _depthwise_forward(x: Array, kernel: Array, stride: int, pads: _Pads) -> tuple[Array, Any]:
    return _depthwise(x, kernel, stride, pads), (x, kernel)


def _depthwise_backward(
    stride: int, pads: _Pads, saved: Any, grad: Array
) -> tuple[Float[Array, "B H W C"], Float[Array, "kh kw C"]]:
    x, kernel = saved
    kh, kw, _ = kernel.shape
    # dx[q] = Σᵢ grad[(q − i) / stride] kernel[i] over whole quotients: the same sum over the
    # gradient, spread to the grid of x, with the kernel turned round.
    spread = tuple(
        (side - 1 - low, size + low - (stride * (length - 1) + 1), stride - 1)
        for side, size, length, (low, _) in zip(
            (kh, kw), x.shape[1:3], grad.shape[1:3], pads, strict=True
        )
    )
    placed = lax.pad(grad, jnp.zeros((), grad.dtype), ((0, 0, 0), *spread, (0, 0, 0)))
    dx = _depthwise(placed, kernel[::-1, ::-1], 1, ((0, 0), (0, 0)))

    # dkernel[i] = Σₚ grad[p] x[stride · p + i], over some images at once and one row after the
    # other: products are neither written out nor read again, and their sums stay in the cache.
    batch, height = grad.shape[:2]
    images = next(n for n in range(_IMAGES, 0, -1) if batch % n == 0)
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))

    def add(turn: Array, totals: list[Array]) -> list[Array]:
        first, row = turn // height * images, turn % height
        rows = lax.dynamic_slice(
            padded, (first, stride * row, 0, 0), (images, kh, *padded.shape[2:])
        )
        of_grad = lax.dynamic_slice(grad, (first, row, 0, 0), (images, 1, *grad.shape[2:]))
        # Written out: XLA else finds the place of every number anew.
        rows, of_grad = lax.optimization_barrier((rows, of_grad))
        shifts = _shifts(rows, (kh, kw), stride)
        return [
            functools.reduce(jnp.add, (shifted[n, 0] * of_grad[n, 0] for n in range(images)), total)
            for total, (_, _, shifted) in zip(totals, shifts, strict=True)
        ]

    zeros = jnp.zeros(grad.shape[2:], kernel.dtype) + nothing(grad)
    totals = lax.fori_loop(0, batch // images * height, add, [zeros] * (kh * kw))
    dkernel = jnp.stack([total.sum(0) for total in totals]).reshape(kernel.shape)
    return dx.astype(x.dtype), dkernel


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def pointwise_conv_dot(
    x: Float[Array, "B H W I"], kernel: Float[Array, "1 1 I O"], *, stride: int = 1
) -> Float[Array, "B h w O"]:
    """A 1×1 convolution as a matrix product, equal to `conv(x, kernel, stride=stride)`."""
    strided = x[:, ::stride, ::stride]
    batch, height, width, features = strided.shape
    # Two dimensions, not four: XLA then finds its fast matrix product for both gradients too,
    # and a training step takes half to a third of the time.
    y = strided.reshape(-1, features) @ kernel[0, 0]
    return y.reshape(batch, height, width, kernel.shape[-1])


def max_pool_windows(
    x: Float[Array, "B H W C"], *, size: int, stride: int, padding: Padding
) -> Float[Array, "B h w C"]:
    """Max-pooling by XLA's window reduction."""
    rows, columns = _pad_widths(x, (size, size), stride, padding)
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, size, size, 1),
        window_strides=(1, stride, stride, 1),
        padding=((0, 0), rows, columns, (0, 0)),
    )


def max_pool_shifted(
    x: Float[Array, "B H W C"], *, size: int, stride: int, padding: Padding
) -> Float[Array, "B h w C"]:
    """Max-pooling as the maximum of shifted slices.

    Where several pixels of a window are equally the largest, they share the gradient; the
    window reduction gives it to the first.
    """
    rows, columns = _pad_widths(x, (size, size), stride, padding)
    padded = jnp.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=-jnp.inf)
    slices = (shifted for _, _, shifted in _shifts(padded, (size, size), stride))
    return functools.reduce(jnp.maximum, slices)


def max_pool(
    x: Float[Array, "B H W C"], *, size: int, stride: int, padding: Padding
) -> Float[Array, "B h w C"]:
    """Max-pooling, in the form that suits the device."""
    pool = max_pool_shifted if on_cpu() else max_pool_windows
    return pool(x, size=size, stride=stride, padding=padding)


def avg_pool(
    x: Float[Array, "B H W C"], *, size: int, count_padding: bool
) -> Float[Array, "B H W C"]:
    """Average-pooling at every pixel, over windows of an odd `size` that is centred there.

    Args:
        count_padding: a window that reaches over the edge is divided by all its `size²` pixels,
            those outside being zero (PyTorch's default), instead of by those inside the image
            (TensorFlow's rule).
    """
    _, height, width, _ = x.shape
    half = size // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    rows = functools.reduce(jnp.add, (padded[:, i : i + height] for i in range(size)))
    sums = functools.reduce(jnp.add, (rows[:, :, j : j + width] for j in range(size)))
    if count_padding:
        return sums / size**2
    inside = [
        np.minimum(np.arange(n) + half, n - 1) - np.maximum(np.arange(n) - half, 0) + 1
        for n in (height, width)
    ]
    return sums / jnp.asarray(np.outer(*inside)[:, :, None], x.dtype)


def require_size(images: Float[Array, "B H W C"], least: int, encoder: str) -> None:
    """Raises an `InputError` if a side of the images has fewer than `least` pixels."""
    height, width = images.shape[1:3]
    if min(height, width) < least:
        raise InputError(
            f"data.image_size: images of {height}×{width} pixels are too small for {encoder},"
            f" whose layers shrink them; it takes {least} pixels a side and more."
        )


class Conv(nn.Module):
    """A convolution in the form that suits the device.

    Attributes:
        features: output channels.
        kernel_size: side of a square kernel, or its height and width.
        stride: step between windows, in both directions.
        padding: `"SAME"` (TensorFlow's rule) or pixels on every side.
        depthwise: each channel is convolved by itself; `features` must equal the input's.
        use_bias: adds a number to each output channel.
        dtype: the type computed in; the kernel and the bias are float32.
    """

    features: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    padding: Padding = "SAME"
    depthwise: bool = False
    use_bias: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        side, inputs = self.kernel_size, x.shape[-1]
        height, width = (side, side) if isinstance(side, int) else side
        kernel_shape = (height, width, 1 if self.depthwise else inputs, self.features)
        kernel = self.param("kernel", _kernel_init, kernel_shape)
        y = self._convolve(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y

    def _convolve(
        self, x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw I_per_group O"]
    ) -> Float[Array, "B h w O"]:
        if on_cpu() and self.depthwise:
            return depthwise_conv_shifted(x, kernel, stride=self.stride, padding=self.padding)
        if on_cpu() and kernel.shape[:2] == (1, 1) and self.padding in ("SAME", 0):
            return pointwise_conv_dot(x, kernel, stride=self.stride)
        if on_cpu() and winograd.suits(x, kernel, self.stride, self.padding):
            return winograd.conv3x3(x, kernel, padding=self.padding)
        groups = x.shape[-1] if self.depthwise else 1
        return conv(x, kernel, stride=self.stride, padding=self.padding, groups=groups)


class ConvNorm(nn.Module):
    """A convolution and its batch normalisation (Ioffe & Szegedy 2015, algorithms 1 and 2).

    Attributes:
        features, kernel_size, stride, padding, depthwise, use_bias, dtype: as in `Conv`.
        epsilon: added to the variance.
        momentum: share of the old running statistics that a training step keeps.
        axis_name: mapped axis over which batch statistics are averaged, if any.
        use_scale: multiplies each normalised channel by a number.
        scale_init: its initial value; zeros make a residual branch start as nothing.
    """

    features: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    padding: Padding = "SAME"
    depthwise: bool = False
    use_bias: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    use_scale: bool = True
    scale_init: Callable[..., Any] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], *, train: bool) -> Float[Array, "B h w O"]:
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.padding,
            self.depthwise,
            self.use_bias,
            self.dtype,
            name="conv",
        )(x)
        return BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            axis_name=self.axis_name,
            use_scale=self.use_scale,
            scale_init=self.scale_init,
            name="norm",
        )(x)


def _pad_widths(
    x: Float[Array, "B H W C"], kernel_size: tuple[int, ...], stride: int, padding: Padding
) -> list[tuple[int, int]]:
    """Pixels before and after, for the rows and for the columns."""
    if isinstance(padding, int):
        return [(padding, padding), (padding, padding)]
    return list(lax.padtype_to_pads(x.shape[1:3], kernel_size, (stride, stride), "SAME"))


def _shifts(
    padded: Float[Array, "B H W C"], kernel_size: tuple[int, int], stride: int
) -> Iterator[tuple[int, int, Float[Array, "B h w C"]]]:
    """For every kernel element (i, j): i, j and the pixels it meets, window by window."""
    kh, kw = kernel_size
    _, height, width, _ = padded.shape
    for i in range(kh):
        for j in range(kw):
            rows = slice(i, height - kh + i + 1, stride)
            columns = slice(j, width - kw + j + 1, stride)
            yield i, j, padded[:, rows, columns]
