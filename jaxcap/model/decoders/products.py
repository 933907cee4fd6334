"""Matrix products in the type that a decoder computes in; everything else is float32.

In bfloat16, the factors are rounded and the terms summed in float32. The two products of the
gradient round their factors in the same way. Parameters, sums, softmax and LSTM states stay
float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

FLOAT32 = jnp.dtype("float32")


def dense(features: int, dtype: Any, **options: Any) -> nn.Dense:
    """Make an `nn.Dense` that multiplies in `dtype`; parameters and results are float32.

    The bias is not rounded.
    """
    return nn.Dense(
        features, dot_general=None if dtype == FLOAT32 else rounded_dot_general, **options
    )


def product(
    subscripts: str, x: Float[Array, "..."], y: Float[Array, "..."], dtype: Any
) -> Float[Array, "..."]:
    """Compute the `einsum` of two float32 arrays in `dtype`; the result is float32."""
    einsum = partial(jnp.einsum, subscripts)
    return einsum(x, y) if dtype == FLOAT32 else _rounded(einsum, x, y)


def rounded_dot_general(x: Array, y: Array, dimension_numbers: Any, *, precision: Any) -> Array:
    """`lax.dot_general` of bfloat16 factors, summed in float32; for `nn.Dense`."""
    dot_general = partial(lax.dot_general, dimension_numbers=dimension_numbers, precision=precision)
    return _rounded(dot_general, x, y)


def _rounded(multiply: Callable[..., Array], x: Array, y: Array) -> Array:
    def exact(x: Array, y: Array) -> Array:
        return multiply(x, y, preferred_element_type=jnp.float32)

    @jax.custom_vjp
    def rounded(x: Array, y: Array) -> Array:
        return exact(x, y)

    def forward(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        return exact(x, y), (x, y)

    def backward(factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
        # By itself, JAX multiplies a float32 gradient by bfloat16: as slow as in float32.
        plain = jax.vjp(multiply, *factors)[1]
        return plain(gradient.astype(jnp.bfloat16))

    rounded.defvjp(forward, backward)
    return rounded(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16))
