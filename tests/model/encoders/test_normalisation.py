"""Our batch normalisation is Flax's: values, gradients, and what it remembers."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.model.encoders.normalisation import BatchNorm

KEY = jax.random.key(0, impl="rbg")
OPTIONS = {"momentum": 0.8, "epsilon": 1e-3, "dtype": jnp.float64}


def _run(module, variables, x):
    """Output, gradients of parameters and input, and new statistics."""

    def loss(params, x):
        y, updates = module.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        total = (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum()
        return total, (y, updates)

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)


def _variables(channels):
    numbers = iter(jax.random.uniform(KEY, (4, channels), float) + 0.5)
    return {
        "params": {"scale": next(numbers), "bias": next(numbers)},
        "batch_stats": {"mean": next(numbers), "var": next(numbers)},
    }


@pytest.mark.slow
@pytest.mark.parametrize("running", [False, True])
def test_equals_flaxs(running):
    with jax.enable_x64(True):
        x = 3 + 2 * jax.random.normal(KEY, (2, 4, 3, 5), float)
        modules = [c(use_running_average=running, **OPTIONS) for c in (BatchNorm, nn.BatchNorm)]
        shapes = [jax.tree.map(jnp.shape, module.init(KEY, x)) for module in modules]
        assert shapes[0] == shapes[1]
        ours, theirs = (jax.jit(lambda v, x, m=m: _run(m, v, x))(_variables(5), x) for m in modules)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, theirs
        )


def test_three_channels_by_hand():
    # Means 2, 0 and 7; variances 1, 4 and 0.
    x = jnp.array([[1.0, -2.0, 7.0], [3.0, 2.0, 7.0]]).reshape(2, 1, 1, 3)
    module = BatchNorm(use_running_average=False, momentum=0.5, epsilon=1e-12)
    variables = {
        "params": {"scale": jnp.array([1.0, 3.0, 1.0]), "bias": jnp.array([0.0, 1.0, 5.0])},
        "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)},
    }
    y, updates = module.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(y[:, 0, 0], [[-1, -2, 5], [1, 4, 5]], rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], [1, 0, 3.5], rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], [1, 2.5, 0.5], rtol=1e-6)


@pytest.mark.slow
def test_devices_share_statistics_and_gradients():
    with jax.enable_x64(True):
        x = jax.random.normal(KEY, (2, 3, 3, 4), float)
        variables = _variables(4)

        def gradient(axis_name):
            module = BatchNorm(use_running_average=False, axis_name=axis_name, **OPTIONS)

            def loss(x):
                y = module.apply(variables, x, mutable=["batch_stats"])[0]
                return jnp.sum(jnp.sin(3 * y))

            return jax.grad(loss)

        whole = gradient(None)(x)
        mapped = jax.vmap(gradient("devices"), axis_name="devices")(x[:, None])[:, 0]
        np.testing.assert_allclose(mapped, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_bfloat16_is_summed_in_float32():
    # The mean is 257, which bfloat16 does not have.
    x = jnp.array([256.0, 258.0], jnp.bfloat16).reshape(2, 1, 1, 1)
    module = BatchNorm(use_running_average=False, momentum=0.0, dtype=jnp.bfloat16)
    y, updates = module.apply(module.init(KEY, x), x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates["batch_stats"]["mean"], [257.0])
    np.testing.assert_allclose(updates["batch_stats"]["var"], [1.0])
