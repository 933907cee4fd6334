"""Winograd's convolutions against XLA's own, in float64, where rounding hides no mistake."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.model.encoders import conv as conv_module
from jaxcap.model.encoders.conv import Conv, conv
from jaxcap.model.encoders.cpu import winograd
from jaxcap.model.encoders.cpu.winograd import conv3x3, is_suitable

KEY = jax.random.key(0, impl="rbg")


def _values_and_gradients(f, *args):
    y, gradients = jax.vjp(f, *args)
    return y, gradients(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))


def _compare(shape, outputs, padding, tolerance=1e-11):
    x = jax.random.normal(KEY, shape, float)
    kernel = jax.random.normal(KEY, (3, 3, shape[-1], outputs), float)

    @jax.jit
    def both(*args):
        forms = (conv3x3, conv)
        return [_values_and_gradients(lambda *a, f=f: f(*a, padding=padding), *args) for f in forms]

    ours, theirs = both(x, kernel)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) < tolerance * np.linalg.norm(b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "padding"),
    [
        ((2, 7, 9, 3), 1),  # tiles that reach over both edges
        ((1, 8, 4, 2), "SAME"),  # tiles that fit
        ((1, 1, 2, 2), 1),  # less than a tile
        ((2, 13, 6, 3), 0),
    ],
)
@pytest.mark.parametrize("f", [winograd._F2, winograd._F4], ids=["F2", "F4"])
def test_values_and_gradients_are_the_direct_convolutions(shape, padding, f, monkeypatch):
    monkeypatch.setattr(winograd, "_for_images", lambda *_: f)
    monkeypatch.setattr(winograd, "_for_kernels", lambda *_: f)
    with jax.enable_x64(True):
        _compare(shape, 5, padding)


def test_float32_is_nearly_as_exact_as_the_direct_sum():
    _compare((2, 16, 16, 32), 32, 1, tolerance=1e-5)


def test_a_constant_image_by_hand():
    # A kernel of ones over ones of three channels: 3 · 9 inside, 3 · 6 at edges, 3 · 4 in corners.
    y = conv3x3(jnp.ones((1, 5, 6, 3)), jnp.ones((3, 3, 3, 1)), padding=1)[0, :, :, 0]
    expected = np.full((5, 6), 27.0)
    expected[[0, -1]] = 18
    expected[:, [0, -1]] = 18
    expected[np.ix_([0, -1], [0, -1])] = 12
    np.testing.assert_allclose(y, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding", "dtype", "expected"),
    [
        ((1, 28, 28, 64), (3, 3, 64, 64), 1, 1, jnp.float32, True),
        ((1, 28, 28, 64), (3, 3, 64, 64), 2, 1, jnp.float32, False),
        ((1, 28, 28, 64), (1, 7, 64, 64), 1, "SAME", jnp.float32, False),
        ((1, 28, 28, 64), (3, 3, 1, 64), 1, 1, jnp.float32, False),  # depthwise
        ((1, 28, 28, 3), (3, 3, 3, 64), 1, 1, jnp.float32, False),  # an image
        ((1, 28, 28, 64), (3, 3, 64, 64), 1, 1, jnp.bfloat16, False),
        ((1, 28, 28, 64), (3, 3, 64, 64), 1, 2, jnp.float32, False),
        ((1, 28, 5, 64), (3, 3, 64, 64), 1, 1, jnp.float32, False),  # too narrow
    ],
)
def test_what_it_is_for(shape, kernel, stride, padding, dtype, expected):
    seen = []
    jax.eval_shape(
        lambda x, kernel: seen.append(is_suitable(x, kernel, stride, padding)),
        jax.ShapeDtypeStruct(shape, dtype),
        jax.ShapeDtypeStruct(kernel, dtype),
    )
    assert seen == [expected]


def test_only_on_a_cpu(monkeypatch):
    x = jax.random.normal(KEY, (1, 16, 16, 64))
    layer = Conv(64, 3, padding=1)
    variables = layer.init(KEY, x)

    def traced(on_cpu):
        monkeypatch.setattr(conv_module, "on_cpu", lambda: on_cpu)
        # A new function each time, because JAX caches traces.
        return str(jax.make_jaxpr(lambda x: layer.apply(variables, x))(x))

    assert "conv_general_dilated" not in traced(on_cpu=True)
    assert "conv_general_dilated" in traced(on_cpu=False)


def test_devices_add_up_the_gradient_of_a_kernel_that_they_share():
    x, kernel = jax.random.normal(KEY, (2, 6, 6, 3)), jax.random.normal(KEY, (3, 3, 3, 2))
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    images, shared = jax.sharding.PartitionSpec("devices"), jax.sharding.PartitionSpec()

    def over_devices(x, kernel):
        return jax.grad(lambda kernel: jnp.sum(jnp.sin(conv3x3(x, kernel, padding=1))))(kernel)

    mapped = jax.shard_map(
        over_devices, mesh=mesh, in_specs=(images, shared), out_specs=shared, check_vma=True
    )
    expected = jax.grad(lambda kernel: jnp.sum(jnp.sin(conv(x, kernel, padding=1))))(kernel)
    np.testing.assert_allclose(jax.jit(mapped)(x, kernel), expected, rtol=1e-4, atol=1e-4)
