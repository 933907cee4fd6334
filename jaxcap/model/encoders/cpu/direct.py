"""Convolution by XLA's operator, with the padding and the kernel gradient that suit a CPU.

Images are `[B, H, W, C]`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcap.model.encoders.cpu.device_varying import device_varying_zero
from jaxcap.model.encoders.windows import Padding, PadWidths, pad_widths

# Input channels up to which XLA's kernel gradient is slow with any kernel, as in a stem.
_FEW_CHANNELS = 32
MANY_PRODUCTS = 8_000_000
"""Products of an image from which rows of patches pay; a small ResNet took twice as long."""
# Patches that exceed the cache are limited by memory bandwidth.
_CACHE_BYTES = 4 << 20


def conv_direct(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw I O"],
    *,
    stride: int = 1,
    padding: Padding = "SAME",
) -> Float[Array, "B h w O"]:
    """Convolve; equal to `conv(x, kernel, stride=stride, padding=padding)`."""
    pads = pad_widths(x, kernel.shape[:2], stride, padding)
    if _is_slow_for_kernels(x, kernel, stride):
        return _conv_of_rows(x, kernel + device_varying_zero(x), stride, pads)
    return _conv(x, kernel, stride, pads)


def _is_slow_for_kernels(x: Array, kernel: Array, stride: int) -> bool:
    """Return whether XLA takes about twice as long for the kernel's gradient as it needs to."""
    height, width, inputs, _ = kernel.shape
    is_slow = stride > 1 or height > width == 1 or inputs <= _FEW_CHANNELS
    is_slow &= x.shape[1] * x.shape[2] // stride**2 * kernel.size >= MANY_PRODUCTS
    return is_slow and isinstance(x.shape[0], int) and x.dtype in (jnp.float32, jnp.float64)


def _conv(x: Array, kernel: Array, stride: int, pads: PadWidths) -> Array:
    # XLA gives convolutions on CPUs to YNNPACK, which takes 1.2 to 2.7 times as long without
    # padding. The row is below the last window, or the window that reaches it is cropped.
    is_padded = pads != ((0, 0), (0, 0))
    y = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads if is_padded else ((0, 1), (0, 0)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y if is_padded else y[:, : (x.shape[1] - kernel.shape[0]) // stride + 1]


_conv_of_rows = jax.custom_vjp(_conv, nondiff_argnums=(2, 3))


def _forward(x: Array, kernel: Array, stride: int, pads: PadWidths) -> tuple[Array, Any]:
    return _conv(x, kernel, stride, pads), (x, kernel)


def _backward(stride: int, pads: PadWidths, saved: Any, grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    _, transposed = jax.vjp(lambda x: _conv(x, kernel, stride, pads), x)
    return *transposed(grad), _kernel_gradient(x, grad, kernel, stride, pads)


_conv_of_rows.defvjp(_forward, _backward)


def _kernel_gradient(x: Array, grad: Array, kernel: Array, stride: int, pads: PadWidths) -> Array:
    """dk[i] = Σ x[·, s y + i, s x .. s x + kw, ·]ᵀ dy[·, y, x, ·]: a product per row of the kernel.

    So many images at a time that their rows of patches fit into the cache.
    """
    rows, width, inputs, outputs = kernel.shape
    batch, height, columns, _ = grad.shape
    bytes_of_image = (x.shape[1] + sum(pads[0])) * columns * width * inputs * x.dtype.itemsize
    most = max(1, _CACHE_BYTES // bytes_of_image)
    images = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= most)

    def add(part: Array, total: Array) -> Array:
        some = functools.partial(
            lax.dynamic_slice_in_dim, start_index=part * images, slice_size=images
        )
        some_x = jnp.pad(some(x), ((0, 0), *pads, (0, 0)))
        last = stride * (columns - 1) + 1
        patches = jnp.concatenate([some_x[:, :, j : j + last : stride] for j in range(width)], -1)
        last = stride * (height - 1) + 1
        products = [
            lax.dot_general(
                patches[:, i : i + last : stride].reshape(-1, width * inputs),
                some(grad).reshape(-1, outputs),
                (((0,), (0,)), ((), ())),
            )
            for i in range(rows)
        ]
        return total + jnp.stack(products).reshape(kernel.shape)

    start = jnp.zeros_like(kernel) + device_varying_zero(x)
    return lax.fori_loop(0, batch // images, add, start)
