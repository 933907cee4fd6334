"""The CPU forms against XLA's own operators, and against sums worked out by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.model.encoders import conv as conv_module
from jaxcap.model.encoders.conv import (
    Conv,
    ConvNorm,
    avg_pool,
    conv,
    max_pool_windows,
    written_for,
)
from jaxcap.model.encoders.cpu import depthwise, direct
from jaxcap.model.encoders.cpu.depthwise import depthwise_conv_shifted
from jaxcap.model.encoders.cpu.direct import conv_direct
from jaxcap.model.encoders.cpu.max_pooling import max_pool_shifted
from jaxcap.model.encoders.cpu.pointwise import pointwise_conv_dot

# An odd and an even side; no stride divides both.
HEIGHT, WIDTH = 7, 8

# Compiles in a tenth of the time that the default generator takes.
KEY = jax.random.key(0, impl="rbg")


def _images(height, width, channels):
    return jax.random.normal(KEY, (2, height, width, channels))


def _assert_same(f, g, *args):
    """Both functions give the same values and the same gradients in every argument."""

    @jax.jit
    def values_and_gradients(*args):
        results = []
        for function in (f, g):
            y, gradients = jax.vjp(function, *args)
            results.append((y, gradients(jnp.cos(jnp.arange(y.size)).reshape(y.shape))))
        return results

    ours, theirs = values_and_gradients(*args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 1, "SAME"), (3, 2, "SAME"), (5, 2, "SAME"), (3, 2, 1), (5, 1, 2), (2, 3, 0)],
)
def test_depthwise_forms_agree(kernel, stride, padding):
    x = _images(HEIGHT, WIDTH, channels=4)
    w = jax.random.normal(KEY, (kernel, kernel, 1, 4))
    _assert_same(
        lambda x, w: depthwise_conv_shifted(x, w, stride=stride, padding=padding),
        lambda x, w: conv(x, w, stride=stride, padding=padding, groups=4),
        x,
        w,
    )


def test_depthwise_gradients_of_some_images_after_others(monkeypatch):
    """Of six images with at most four at once, three and three."""
    monkeypatch.setattr(depthwise, "_IMAGES", 4)
    x = jax.random.normal(KEY, (6, 5, 4, 3))
    w = jax.random.normal(KEY, (3, 3, 1, 3))
    _assert_same(
        lambda x, w: depthwise_conv_shifted(x, w, stride=2),
        lambda x, w: conv(x, w, stride=2, groups=3),
        x,
        w,
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pointwise_forms_agree(stride):
    x = _images(HEIGHT, WIDTH, channels=3)
    w = jax.random.normal(KEY, (1, 1, 3, 5))
    _assert_same(
        lambda x, w: pointwise_conv_dot(x, w, stride=stride),
        lambda x, w: conv(x, w, stride=stride, padding=0),
        x,
        w,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "channels"),
    [
        ((3, 3), 1, 0, 17),  # YNNPACK takes 17 channels or more
        ((3, 3), 2, 0, 17),
        ((2, 2), 3, 0, 17),
        ((3, 3), 2, 1, 33),
        ((3, 3), 2, "SAME", 33),
        ((7, 7), 2, 3, 3),
        ((1, 7), 1, "SAME", 33),
        ((7, 1), 1, "SAME", 33),
    ],
)
def test_direct_forms_agree(kernel, stride, padding, channels, monkeypatch):
    monkeypatch.setattr(direct, "MANY_PRODUCTS", 0)
    x = _images(HEIGHT, WIDTH, channels=channels)
    w = jax.random.normal(KEY, (*kernel, channels, 20))
    _assert_same(
        lambda x, w: conv_direct(x, w, stride=stride, padding=padding),
        lambda x, w: conv(x, w, stride=stride, padding=padding),
        x,
        w,
    )


def test_kernel_gradients_of_some_images_after_others(monkeypatch):
    """The patches of a row of six images fit into 4 MB two at a time."""
    monkeypatch.setattr(direct, "MANY_PRODUCTS", 0)
    x = jax.random.normal(KEY, (6, 60, 60, 32)) / 1000  # the sums are over 21,600 pixels
    w = jax.random.normal(KEY, (3, 3, 32, 5))
    _assert_same(conv_direct, conv, x, w)


@pytest.mark.parametrize(
    ("side", "stride", "padding"), [(3, 2, 1), (3, 2, "SAME"), (2, 2, 0), (3, 1, 1)]
)
def test_max_pool_forms_agree(side, stride, padding):
    _assert_same(
        lambda x: max_pool_shifted(x, size=side, stride=stride, padding=padding),
        lambda x: max_pool_windows(x, size=side, stride=stride, padding=padding),
        _images(HEIGHT, WIDTH, channels=3),
    )


def test_forms_agree_under_vmap():
    x = jax.random.normal(KEY, (3, 2, 5, 5, 4))
    w = jax.random.normal(KEY, (3, 3, 1, 4))
    mapped = jax.jit(jax.vmap(depthwise_conv_shifted, in_axes=(0, None)))(x, w)
    expected = jax.jit(lambda x, w: conv(x, w, groups=4))(x[1], w)
    np.testing.assert_allclose(mapped[1], expected, rtol=1e-5, atol=1e-5)


def test_devices_add_up_the_gradient_of_a_kernel_that_they_share():
    """The hand-written gradients must not hide from JAX that the kernel is shared."""
    x, w = _images(HEIGHT, WIDTH, channels=4), jax.random.normal(KEY, (3, 3, 1, 4))
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    images, shared = jax.sharding.PartitionSpec("devices"), jax.sharding.PartitionSpec()

    def over_devices(x, w):
        def loss(w):
            return jnp.sum(jnp.sin(depthwise_conv_shifted(x, w)))

        return jax.grad(loss)(w)

    mapped = jax.shard_map(
        over_devices, mesh=mesh, in_specs=(images, shared), out_specs=shared, check_vma=True
    )
    expected = jax.grad(lambda w: jnp.sum(jnp.sin(conv(x, w, groups=4))))(w)
    np.testing.assert_allclose(jax.jit(mapped)(x, w), expected, rtol=1e-4, atol=1e-5)


def test_same_padding_is_tensorflows():
    # Four pixels, kernel 3, stride 2: one pixel of padding in all, and it goes to the end,
    # so the windows are (1, 2, 3) and (3, 4, 0).
    x = jnp.arange(1.0, 5.0).reshape(1, 4, 1, 1)
    ones = jnp.zeros((3, 3, 1, 1)).at[:, 1].set(1.0)
    for form in (conv, depthwise_conv_shifted):
        y = form(x, ones, stride=2, padding="SAME")
        np.testing.assert_array_equal(y[0, :, 0, 0], [6.0, 7.0])


def test_explicit_padding_is_pytorchs():
    # The same pixels with one of padding on either side: (0, 1, 2) and (2, 3, 4).
    x = jnp.arange(1.0, 5.0).reshape(1, 4, 1, 1)
    ones = jnp.zeros((3, 3, 1, 1)).at[:, 1].set(1.0)
    for form in (conv, depthwise_conv_shifted):
        y = form(x, ones, stride=2, padding=1)
        np.testing.assert_array_equal(y[0, :, 0, 0], [3.0, 9.0])


def test_max_pool_never_takes_the_padding():
    x = -jnp.ones((1, 3, 3, 1))
    for form in (max_pool_shifted, max_pool_windows):
        assert form(x, size=3, stride=2, padding=1).max() == -1.0


def test_average_pooling_by_hand():
    # Nine ones in the middle; the windows of a corner hold four pixels, of an edge six.
    ones = jnp.ones((1, 3, 4, 1))
    np.testing.assert_allclose(avg_pool(ones, size=3, count_padding=False), ones, rtol=1e-6)
    counted = avg_pool(ones, size=3, count_padding=True)[0, :, :, 0]
    expected = np.array([[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]) / 9
    np.testing.assert_allclose(counted, expected, rtol=1e-6)
    # Of 2, 5 and 11 in a row: (2 + 5) / 2, all three / 3, (5 + 11) / 2.
    row = jnp.array([2.0, 5.0, 11.0]).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(avg_pool(row, size=3, count_padding=False).ravel(), [3.5, 6, 8])
    np.testing.assert_allclose(
        avg_pool(row, size=3, count_padding=True).ravel(), [7 / 9, 2, 16 / 9], rtol=1e-6
    )


def test_average_pooling_is_a_window_reduction():
    x = _images(HEIGHT, WIDTH, channels=3)

    def reduction(x):
        window, ones = (1, 3, 3, 1), (1, 1, 1, 1)
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, ones, "SAME") / 9

    _assert_same(lambda x: avg_pool(x, size=3, count_padding=True), reduction, x)


def test_a_bias_is_added_to_each_channel():
    layer = Conv(2, 1, use_bias=True)
    x = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    variables = layer.init(KEY, x)
    np.testing.assert_array_equal(variables["params"]["bias"], [0.0, 0.0])
    params = {"kernel": jnp.array([2.0, -1.0]).reshape(1, 1, 1, 2), "bias": jnp.array([0.5, 10.0])}
    y = layer.apply({"params": params}, x)
    np.testing.assert_array_equal(y[0, :, 0], [[2.5, 9.0], [6.5, 7.0]])


def test_a_kernel_may_be_wider_than_high():
    # A row of ones, 1×3, adds neighbours in a row only.
    x = jnp.arange(1.0, 7.0).reshape(1, 2, 3, 1)
    y = Conv(1, (1, 3)).apply({"params": {"kernel": jnp.ones((1, 3, 1, 1))}}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[3, 6, 5], [9, 15, 11]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        Conv(6, 1, stride=2),
        Conv(4, 3, stride=2, depthwise=True),
        Conv(6, 3, padding=1, use_bias=True),
        Conv(6, (1, 7)),
    ],
)
def test_parameters_do_not_depend_on_the_device(layer, monkeypatch):
    x = _images(7, 7, channels=4)
    monkeypatch.setattr(conv_module, "on_cpu", lambda: True)
    variables = layer.init(KEY, x)
    on_cpu = layer.apply(variables, x)
    monkeypatch.setattr(conv_module, "on_cpu", lambda: False)
    assert jax.tree.map(jnp.shape, layer.init(KEY, x)) == jax.tree.map(jnp.shape, variables)
    np.testing.assert_allclose(layer.apply(variables, x), on_cpu, rtol=1e-5, atol=1e-5)


def test_conv_norm_by_hand():
    # A 1×1 convolution by 2 of the values 1 and 3: 2 and 6, mean 4, variance 4.
    layer = ConvNorm(1, 1, epsilon=0.0, momentum=0.9)
    x = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    variables = layer.init(KEY, x, train=False)
    variables["params"]["conv"]["kernel"] = jnp.full((1, 1, 1, 1), 2.0)
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.ravel(), [-1.0, 1.0], rtol=1e-5)
    stats = updates["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], [0.4], rtol=1e-5)
    np.testing.assert_allclose(stats["var"], [0.9 + 0.4], rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"depthwise": True}, {"use_bias": True}])
def test_a_frozen_normalisation_is_part_of_the_convolution(options, monkeypatch):
    monkeypatch.setattr(conv_module, "on_cpu", lambda: False)
    layer, conv = ConvNorm(4, 3, epsilon=0.1, **options), Conv(4, 3, **options)
    x = _images(5, 5, channels=4)
    variables = jax.tree.map(
        lambda leaf: 0.5 + jax.random.uniform(KEY, leaf.shape), layer.init(KEY, x, train=False)
    )
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    y = conv.apply({"params": params["conv"]}, x)
    normalised = (y - stats["mean"]) / jnp.sqrt(stats["var"] + 0.1)
    expected = normalised * params["norm"]["scale"] + params["norm"]["bias"]
    found, inner = layer.apply(
        variables, x, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(inner["intermediates"]["conv"]["__call__"][0], found)


@pytest.mark.slow
@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_pooling_after_a_pointwise_convolution_is_pooling_before_it(count_padding, device):
    x = _images(HEIGHT, WIDTH, channels=5)
    pool = partial(avg_pool, size=3, count_padding=count_padding)
    plain, pooled = ConvNorm(3, 1), ConvNorm(3, 1, pool=pool)
    variables = jax.tree.map(
        lambda leaf: 0.5 + jax.random.uniform(KEY, leaf.shape), plain.init(KEY, x, train=False)
    )
    assert jax.tree.map(jnp.shape, pooled.init(KEY, x, train=False)) == jax.tree.map(
        jnp.shape, variables
    )
    with written_for(device):
        np.testing.assert_allclose(
            pooled.apply(variables, x, train=False),
            plain.apply(variables, pool(x), train=False),
            rtol=1e-5,
            atol=1e-5,
        )
        found, expected = (
            layer.apply(variables, images, train=True, mutable=["batch_stats"])
            for layer, images in ((pooled, x), (plain, pool(x)))
        )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)


def test_batch_statistics_are_averaged_over_the_axis():
    x = _images(4, 4, channels=3)
    layer = ConvNorm(5, 3)
    variables = layer.init(KEY, x, train=False)
    whole = layer.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    def on_a_device(image):
        module = ConvNorm(5, 3, axis_name="devices")
        return module.apply(variables, image[None], train=True, mutable=["batch_stats"])[0][0]

    np.testing.assert_allclose(
        jax.vmap(on_a_device, axis_name="devices")(x), whole, rtol=1e-4, atol=1e-5
    )


def test_bfloat16_computes_in_bfloat16_and_stores_float32():
    layer = ConvNorm(4, 3, depthwise=True, dtype=jnp.bfloat16)
    x = _images(5, 5, channels=4)
    variables = layer.init(KEY, x, train=False)
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updates))} == {jnp.dtype("float32")}
