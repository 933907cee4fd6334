"""Batch normalisation that stores only its input for the gradient."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class BatchNorm(nn.BatchNorm):
    """Batch normalisation (Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithms 1,
    2).

    The same function of the same parameters and statistics as Flax's, written as x a + b with
    a = γ / √(σ² + ε) and b = β − μ a. From this form JAX derives dx = a dy + c₀ + c₁ x, with two
    numbers per channel that need only the sums of dy and of x dy. From γ (x − μ) / √(σ² + ε) + β
    it derives more sums, and stores x − μ as well as x.
    """

    def __call__(  # type: ignore[override]  # Flax's takes a mask too
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B H W C"]:
        # Sum at least in float32: in bfloat16 sums over a batch would lose digits.
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        a, b = self.line(x.shape[-1], None if self.use_running_average else wide)
        return (wide * a + b).astype(self.dtype or x.dtype)

    @nn.compact
    def line(
        self, channels: int, x: Float[Array, "B H W C"] | None = None
    ) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
        """Return a and b, from the statistics of `x` or, without it, from the running ones."""
        shape = (channels,)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if x is None:
            mean, var = running_mean.value, running_var.value
        else:
            mean, square = x.mean((0, 1, 2)), jnp.square(x).mean((0, 1, 2))
            if self.axis_name is not None and not self.is_initializing():
                mean, square = lax.pmean((mean, square), self.axis_name)
            var = jnp.maximum(square - jnp.square(mean), 0)
            if not self.is_initializing():
                kept = self.momentum
                running_mean.value = kept * running_mean.value + (1 - kept) * mean
                running_var.value = kept * running_var.value + (1 - kept) * var
        a = lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            a = a * self.param("scale", self.scale_init, shape, self.param_dtype)
        b = -mean * a
        if self.use_bias:
            b = b + self.param("bias", self.bias_init, shape, self.param_dtype)
        return a, b
