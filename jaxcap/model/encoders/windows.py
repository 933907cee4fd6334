"""Padding and window positions, shared by convolution and pooling.

Images are `[B, H, W, C]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from jax import lax
from jaxtyping import Array, Float

# "SAME" follows TensorFlow: the output has ceil(size / stride) pixels, and an odd pixel of
# padding goes to the bottom and right. A number follows PyTorch: so many pixels on every side.
Padding: TypeAlias = Literal["SAME"] | int
PadWidths: TypeAlias = tuple[tuple[int, int], tuple[int, int]]


def pad_widths(
    x: Float[Array, "B H W C"], kernel_size: tuple[int, ...], stride: int, padding: Padding
) -> PadWidths:
    """Return the pixels of padding before and after the rows, and the same for columns."""
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    rows, columns = lax.padtype_to_pads(x.shape[1:3], kernel_size, (stride, stride), "SAME")
    return rows, columns


def shifted_slices(
    padded: Float[Array, "B H W C"], kernel_size: tuple[int, int], stride: int
) -> Iterator[tuple[int, int, Float[Array, "B h w C"]]]:
    """Yield `(i, j, pixels)` for each kernel element: the pixel it meets in every window."""
    kh, kw = kernel_size
    _, height, width, _ = padded.shape
    for i in range(kh):
        for j in range(kw):
            rows = slice(i, height - kh + i + 1, stride)
            columns = slice(j, width - kw + j + 1, stride)
            yield i, j, padded[:, rows, columns]
