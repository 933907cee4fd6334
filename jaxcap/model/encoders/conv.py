"""Convolutions and pooling, each computed in the form that suits the device.

GPUs and TPUs run `lax.conv_general_dilated` well. On a CPU, XLA runs depthwise convolutions and
the gradients of 1×1 convolutions and of max-pooling many times slower than it could. There, the
same sums are written as shifted multiply-adds, matrix products and maxima (`encoders/cpu/`).
All forms compute the same numbers from the same parameters (kernels are always
`[height, width, in / groups, out]`), so a checkpoint works on every device.

Images are `[B, H, W, C]`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxcap.messages.errors import InputError
from jaxcap.model.encoders.cpu import winograd
from jaxcap.model.encoders.cpu.depthwise import depthwise_conv_shifted
from jaxcap.model.encoders.cpu.direct import conv_direct
from jaxcap.model.encoders.cpu.max_pooling import max_pool_shifted
from jaxcap.model.encoders.cpu.pointwise import pointwise_conv_dot
from jaxcap.model.encoders.normalisation import BatchNorm
from jaxcap.model.encoders.windows import Padding, pad_widths

Dtype: TypeAlias = Any

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# He et al. 2015, "Delving Deep into Rectifiers", eq. 10, over the outputs as in He et al. 2015,
# "Deep Residual Learning".
_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# Part of the keys of JAX's caches: what is traced for one platform is never taken for another.
_platform = jax.make_user_context(default_value=None)


def on_cpu() -> bool:
    """Return whether JAX is tracing for the CPU."""
    # Simpler than `lax.platform_dependent`, which traces and differentiates both forms.
    return (_platform.value or jax.default_backend()) == "cpu"


def written_for(platform: str) -> AbstractContextManager[None]:
    """Trace for `platform` (`"cpu"` or another) instead of this machine's inside the block."""
    return _platform(platform)


def conv(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw I_per_group O"],
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    groups: int = 1,
) -> Float[Array, "B h w O"]:
    """Convolve images (cross-correlation) with XLA's own operator, on any device."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pad_widths(x, kernel.shape[:2], stride, padding),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def max_pool_windows(
    x: Float[Array, "B H W C"], *, size: int, stride: int, padding: Padding
) -> Float[Array, "B h w C"]:
    """Max-pool with XLA's window reduction."""
    rows, columns = pad_widths(x, (size, size), stride, padding)
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, size, size, 1),
        window_strides=(1, stride, stride, 1),
        padding=((0, 0), rows, columns, (0, 0)),
    )


def max_pool(
    x: Float[Array, "B H W C"], *, size: int, stride: int, padding: Padding
) -> Float[Array, "B h w C"]:
    """Max-pool in the form that suits the device."""
    pool = max_pool_shifted if on_cpu() else max_pool_windows
    return pool(x, size=size, stride=stride, padding=padding)


def avg_pool(
    x: Float[Array, "B H W C"], *, size: int, count_padding: bool
) -> Float[Array, "B H W C"]:
    """Average-pool at every pixel, over centred windows of an odd `size`.

    Args:
      count_padding: divide a window that crosses the edge by all its `size²` pixels, the padding
        being zero (PyTorch's default), instead of by the pixels inside the image (TensorFlow's
        rule).
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
    """Raise an `InputError` if a side of the images has fewer than `least` pixels."""
    height, width = images.shape[1:3]
    if min(height, width) < least:
        raise InputError(
            f"data.image_size: images of {height}×{width} pixels are too small for {encoder};"
            f" give at least {least} pixels a side."
        )


class Conv(nn.Module):
    """A convolution in the form that suits the device.

    Attributes:
      features: output channels.
      kernel_size: side of a square kernel, or its height and width.
      stride: step between windows, in both directions.
      padding: `"SAME"` (TensorFlow's rule) or the pixels on every side.
      depthwise: convolve each channel by itself; `features` must equal the input channels.
      use_bias: add a number to each output channel.
      dtype: the type to compute in; the kernel and the bias are float32.
    """

    features: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    padding: Padding = "SAME"
    depthwise: bool = False
    use_bias: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W I"],
        line: tuple[Float[Array, " O"], Float[Array, " O"]] | None = None,
    ) -> Float[Array, "B h w O"]:
        """Return the convolution y of x; with `line`, a and b, return y a + b by another kernel."""
        side, inputs = self.kernel_size, x.shape[-1]
        height, width = (side, side) if isinstance(side, int) else side
        kernel_shape = (height, width, 1 if self.depthwise else inputs, self.features)
        kernel = self.param("kernel", _kernel_init, kernel_shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if line is not None:
            a, b = line
            kernel, bias = kernel * a, b if bias is None else bias * a + b
        y = self._convolve(x.astype(self.dtype), kernel.astype(self.dtype))
        return y if bias is None else y + bias.astype(self.dtype)

    def _convolve(
        self, x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw I_per_group O"]
    ) -> Float[Array, "B h w O"]:
        if on_cpu() and self.depthwise:
            return depthwise_conv_shifted(x, kernel, stride=self.stride, padding=self.padding)
        if on_cpu() and kernel.shape[:2] == (1, 1) and self.padding in ("SAME", 0):
            return pointwise_conv_dot(x, kernel, stride=self.stride)
        if on_cpu() and winograd.is_suitable(x, kernel, self.stride, self.padding):
            return winograd.conv3x3(x, kernel, padding=self.padding)
        if on_cpu():
            return conv_direct(x, kernel, stride=self.stride, padding=self.padding)
        groups = x.shape[-1] if self.depthwise else 1
        return conv(x, kernel, stride=self.stride, padding=self.padding, groups=groups)


class ConvNorm(nn.Module):
    """A convolution and its batch normalisation (Ioffe & Szegedy 2015, algorithms 1 and 2).

    Without batch statistics and a pool, the normalisation is part of the convolution's kernel and
    bias. Not on CPUs: there XLA adds the bias and applies the ReLU in a pass over the output, in
    which the scale is free, while scaling the kernel again in each call is not.

    Attributes:
      features, kernel_size, stride, padding, depthwise, use_bias, dtype: as in `Conv`.
      epsilon: added to the variance.
      momentum: how much of the old running statistics a training step keeps.
      axis_name: mapped axis over which batch statistics are averaged, if any.
      use_scale: multiply each normalised channel by a learned scale.
      scale_init: initialiser of that scale; with zeros, a residual branch starts at zero.
      pool: applied between the convolution and the normalisation.
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
    pool: Callable[[Any], Any] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], *, train: bool) -> Float[Array, "B h w O"]:
        conv = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.padding,
            self.depthwise,
            self.use_bias,
            self.dtype,
            name="conv",
        )
        norm = BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            axis_name=self.axis_name,
            use_scale=self.use_scale,
            scale_init=self.scale_init,
            name="norm",
        )
        if self.pool is not None:
            return norm(self.pool(conv(x)))
        if train or on_cpu():
            return norm(conv(x))
        return conv(x, norm.line(self.features))
