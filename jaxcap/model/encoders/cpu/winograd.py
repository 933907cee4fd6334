"""3×3 convolution of stride 1 with two to four times fewer multiplications, for CPUs.

Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks",
https://arxiv.org/abs/1509.09308. Winograd's F(m, 3) computes m neighbouring outputs of a filter of
three taps with n = m + 2 multiplications instead of 3 m. Nested in rows and columns, it computes a
tile of m×m pixels with n² instead of 9 m². The sums over channels then become n² matrix products
over all tiles (section 4.1, equations 7 to 12):

    Y = Aᵀ [ Σ_I (G k Gᵀ) ⊙ (Bᵀ x B) ] A

In float32 the error of F(4, 3) is 2e-6 of the norm; that of F(2, 3) and the direct sum is 5e-7.

Images are `[B, H, W, C]`; tiles are `[T, C]`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxcap.model.encoders.cpu.device_varying import device_varying_zero
from jaxcap.model.encoders.cpu.direct import conv_direct

# With fewer channels the products are so cheap that the additions around them dominate the cost.
# In smaller images most tiles cross the edge.
_LEAST_CHANNELS, _LEAST_SIDE = 64, 7
# Side in pixels from which 4×4 tiles are faster than 2×2 tiles, which cross the edge less: for the
# convolution and for the kernel's gradient.
_SIDE_OF_F4, _SIDE_OF_F4_FOR_KERNELS = 20, 12
# Transformed tiles are a few times as large as the images. With few channels, tiles that exceed the
# cache are limited by memory bandwidth; beyond _MOST_BYTES they are not worth their memory.
_FEW_CHANNELS, _CACHE_BYTES, _MOST_BYTES = 128, 16 << 20, 256 << 20


class _Transforms(NamedTuple):
    """The matrices of F(m, 3), as in section 4.1 (m = 2) and 4.2 (m = 4)."""

    m: int
    b: np.ndarray  # Bᵀ (n, n), of the input
    g: np.ndarray  # G (n, 3), of the kernel
    a: np.ndarray  # Aᵀ (m, n), of the output


_F2 = _Transforms(
    2,
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
)
_F4 = _Transforms(
    4,
    np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
    np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
    np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
)


def is_suitable(
    x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw _ O"], stride: int, padding: int | str
) -> bool:
    """Return whether `conv3x3` supports this convolution and is likely to be faster."""
    height, width, inputs, outputs = kernel.shape
    return (
        (height, width, stride) == (3, 3, 1)
        and padding in ("SAME", 0, 1)
        # The transforms cancel digits, and bfloat16 has none to spare.
        and x.dtype in (jnp.float32, jnp.float64)
        and x.shape[-1] == inputs >= _LEAST_CHANNELS <= outputs
        and min(x.shape[1:3]) >= _LEAST_SIDE
    )


def conv3x3(
    x: Float[Array, "B H W I"], kernel: Float[Array, "3 3 I O"], *, padding: int | str
) -> Float[Array, "B h w O"]:
    """Convolve (cross-correlate) with stride 1; `padding` is 0, 1, or "SAME", which means 1.

    The result and its gradients equal those of `conv(x, kernel, padding=padding)` up to rounding.
    The gradient of the images is another such convolution; that of the kernel is n² products over
    the same tiles. Each of the three is computed directly if that is faster.
    """
    return _conv3x3(x, kernel + device_varying_zero(x), 1 if isinstance(padding, str) else padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv3x3(x: Array, kernel: Array, padding: int) -> Array:
    f = _for_images(_output_size(x, padding), kernel)
    return (
        conv_direct(x, kernel, padding=padding) if f is None else _convolve(x, kernel, padding, f)
    )


def _forward(x: Array, kernel: Array, padding: int) -> tuple[Array, Any]:
    return _conv3x3(x, kernel, padding), (x, kernel)


def _backward(padding: int, saved: Any, grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    f = _for_kernels(_output_size(x, padding), kernel)
    if f is None:
        _, transposed = jax.vjp(lambda kernel: conv_direct(x, kernel, padding=padding), kernel)
        (of_kernel,) = transposed(grad)
    else:
        of_kernel = _kernel_gradient(x, grad, padding, f)
    return _conv3x3(grad, turned, 2 - padding), of_kernel


_conv3x3.defvjp(_forward, _backward)


def _output_size(x: Array, padding: int) -> tuple[Any, int, int]:
    batch, height, width, _ = x.shape
    return batch, height + 2 * padding - 2, width + 2 * padding - 2


def _for_images(size: tuple[Any, int, int], kernel: Array) -> _Transforms | None:
    """Choose the transforms for the convolution, or None to convolve directly."""
    f = _F4 if min(size[1:]) >= _SIDE_OF_F4 else _F2
    most = _MOST_BYTES if sum(kernel.shape[2:]) >= 2 * _FEW_CHANNELS else _CACHE_BYTES
    return f if _pays(size, kernel, f, most) else None


def _for_kernels(size: tuple[Any, int, int], kernel: Array) -> _Transforms | None:
    """Choose the transforms for the kernel's gradient, or None to compute it directly."""
    f = _F4 if min(size[1:]) >= _SIDE_OF_F4_FOR_KERNELS else _F2
    return f if _pays(size, kernel, f, _MOST_BYTES) else None


def _pays(size: tuple[Any, int, int], kernel: Array, f: _Transforms, most: int) -> bool:
    batch, height, width = size
    if not isinstance(batch, int):  # symbolic, in an exported program
        return False
    inputs, outputs = kernel.shape[2:]
    tiles = batch * -(-height // f.m) * -(-width // f.m)
    room = (f.m + 2) ** 2 * tiles * (inputs + outputs) * kernel.dtype.itemsize
    # Transforming the kernel has a fixed cost, which enough tiles must share.
    return 4 * tiles >= (inputs * outputs) ** 0.5 and room <= most


def _convolve(x: Array, kernel: Array, padding: int, f: _Transforms) -> Array:
    size = _output_size(x, padding)
    tiles = _input_tiles(x, padding, f)
    products = _transformed_kernel(kernel, f)
    sums = [tile @ product for tile, product in zip(tiles, products, strict=True)]
    return _output_pixels(sums, size, f)


def _kernel_gradient(x: Array, grad: Array, padding: int, f: _Transforms) -> Array:
    """dk = Gᵀ [ Σ_T (Bᵀ x B)ᵀ (A dy Aᵀ) ] G, with products over tiles."""
    tiles = zip(_input_tiles(x, padding, f), _gradient_tiles(grad, f), strict=True)
    over_tiles = (((0,), (0,)), ((), ()))
    summed = jnp.stack([lax.dot_general(of_x, of_grad, over_tiles) for of_x, of_grad in tiles])
    flat = jnp.asarray(_square(f.g).T, x.dtype) @ summed.reshape(len(summed), -1)
    return flat.reshape(3, 3, *summed.shape[1:])


def _square(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix that applies `matrix` to rows and columns of a flattened tile."""
    return np.kron(matrix, matrix)


def _transformed_kernel(kernel: Array, f: _Transforms) -> Array:
    """Compute G k Gᵀ: n² matrices (I, O)."""
    transformed = jnp.asarray(_square(f.g), kernel.dtype) @ kernel.reshape(9, -1)
    return transformed.reshape(-1, *kernel.shape[2:])


def _input_tiles(x: Array, padding: int, f: _Transforms) -> list[Array]:
    """Compute Bᵀ x B: n² arrays (T, I), from tiles that overlap by two pixels."""
    _, *sides = _output_size(x, padding)
    rows, columns = (-(-side // f.m) for side in sides)
    below, right = (
        count * f.m + 2 - padding - side
        for count, side in zip((rows, columns), x.shape[1:3], strict=True)
    )
    padded = jnp.pad(x, ((0, 0), (padding, below), (padding, right), (0, 0)))
    n = f.m + 2
    at_row = [padded[:, i : i + (rows - 1) * f.m + 1 : f.m] for i in range(n)]
    tiles = []
    for across in _combined(f.b, at_row):
        at = [across[:, :, j : j + (columns - 1) * f.m + 1 : f.m] for j in range(n)]
        tiles += [tile.reshape(-1, x.shape[-1]) for tile in _combined(f.b, at)]
    return tiles


def _gradient_tiles(grad: Array, f: _Transforms) -> list[Array]:
    """Compute A dy Aᵀ: n² arrays (T, O), from adjacent tiles."""
    below, right = (-side % f.m for side in grad.shape[1:3])
    padded = jnp.pad(grad, ((0, 0), (0, below), (0, right), (0, 0)))
    tiles = []
    for across in _combined(f.a.T, [padded[:, i :: f.m] for i in range(f.m)]):
        at = [across[:, :, j :: f.m] for j in range(f.m)]
        tiles += [tile.reshape(-1, grad.shape[-1]) for tile in _combined(f.a.T, at)]
    return tiles


def _output_pixels(sums: Sequence[Array], size: tuple[int, int, int], f: _Transforms) -> Array:
    """Compute Aᵀ M A and assemble the tiles into images, cropped to their size."""
    batch, height, width = size
    rows, columns = -(-height // f.m), -(-width // f.m)
    n, outputs = f.m + 2, sums[0].shape[-1]
    down = list(zip(*(_combined(f.a, sums[j::n]) for j in range(n)), strict=True))  # m of n
    pixels = [
        [pixel.reshape(batch, rows, columns, outputs) for pixel in _combined(f.a, row)]
        for row in down
    ]
    tiles = jnp.stack([jnp.stack(row, axis=3) for row in pixels], axis=2)
    whole = tiles.reshape(batch, rows * f.m, columns * f.m, outputs)
    return whole[:, :height, :width]


def _combined(matrix: np.ndarray, terms: Sequence[Array]) -> Iterator[Array]:
    """Yield the sum of `terms`, weighted by each row of the matrix."""
    for row in matrix:
        scaled = (
            term if number == 1 else -term if number == -1 else term * number.astype(term.dtype)
            for number, term in zip(row, terms, strict=True)
            if number
        )
        yield functools.reduce(jnp.add, scaled)
