"""Matrix products in the type that a decoder computes in; all between them is float32.

In bfloat16 the factors are rounded, and the terms added up in float32; so are the factors of the
two products that the gradient is made of. Parameters, sums, softmax and an LSTM's cell stay as
they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FLOAT32 = jnp.dtype("float32")


class RoundedDense(nn.Module):
    """`nn.Dense` with the same parameters, whose product reads bfloat16.

    The result is float32, and the bias is not rounded.
    """

    features: int
    use_bias: bool = True
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: Float[Array, "... I"]) -> Float[Array, "... O"]:
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = _rounded("...i,io->...o", inputs, kernel)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros_init(), (self.features,))


def dense(features: int, dtype: Any, **options: Any) -> nn.Dense | RoundedDense:
    """A dense layer that computes in `dtype`, with the parameters of `nn.Dense`, float32."""
    return (nn.Dense if dtype == FLOAT32 else RoundedDense)(features, **options)


def product(
    subscripts: str, x: Float[Array, "..."], y: Float[Array, "..."], dtype: Any
) -> Float[Array, "..."]:
    """`einsum` of two float32 arrays, computed in `dtype`; the result is float32."""
    return jnp.einsum(subscripts, x, y) if dtype == FLOAT32 else _rounded(subscripts, x, y)


def _rounded(subscripts: str, x: Array, y: Array) -> Array:
    def exact(x: Array, y: Array) -> Array:
        return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32)

    @jax.custom_vjp
    def rounded(x: Array, y: Array) -> Array:
        return exact(x, y)

    def forward(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        return exact(x, y), (x, y)

    def backward(factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
        # Left to itself, JAX multiplies the float32 gradient by bfloat16: as slow as in float32.
        plain = jax.vjp(lambda x, y: jnp.einsum(subscripts, x, y), *factors)[1]
        return plain(gradient.astype(jnp.bfloat16))

    rounded.defvjp(forward, backward)
    return rounded(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16))
