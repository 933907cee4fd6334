"""1×1 convolution as a matrix product."""

from __future__ import annotations

from jaxtyping import Array, Float


def pointwise_conv_dot(
    x: Float[Array, "B H W I"], kernel: Float[Array, "1 1 I O"], *, stride: int = 1
) -> Float[Array, "B h w O"]:
    """Convolve with a 1×1 kernel; equal to `conv(x, kernel, stride=stride)`."""
    strided = x[:, ::stride, ::stride]
    batch, height, width, features = strided.shape
    # In two dimensions XLA uses its fast matrix product for both gradients too: a training step
    # takes a third to half of the time.
    y = strided.reshape(-1, features) @ kernel[0, 0]
    return y.reshape(batch, height, width, kernel.shape[-1])
