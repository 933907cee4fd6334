"""Every encoder: its stages, what freezing them does, and the types it computes in."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.model.encoders import ENCODERS
from jaxcap.model.encoders.conv import written_for
from jaxcap.model.encoders.efficientnet_lite import EfficientNetLite
from jaxcap.model.encoders.freezing import stage_of
from jaxcap.model.encoders.resnet import Bottleneck, ResNet
from jaxcap.model.encoders.vgg import VGG

KEY = jax.random.key(0, impl="rbg")
SHALLOW = ["efficientnet_lite0", "inception_v3", "inception_v3_keras", "resnet18"]
SHALLOW += ["resnet50_keras", "resnet_small", "vgg16", "vgg19_keras"]


def _abstract(module, train=False):
    images = jax.ShapeDtypeStruct((1, 80, 80, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=train), images)


@functools.cache
def _modules(name):
    """Paths of the convolutions and normalisations of an encoder."""
    _, variables = _abstract(ENCODERS[name].build())
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return {tuple(key.key for key in path[:-1]) for path, _ in leaves}


def _trained(module):
    """{path: is it run with batch statistics?} of the normalisations, in order, in training."""
    calls = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            calls[context.module.path] = not context.module.use_running_average
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        _abstract(module, train=True)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("name", SHALLOW)
def test_stages_are_the_modules_from_the_image_on(name):
    spec = ENCODERS[name]
    assert {stage_of(path[0]) for path in _modules(name)} == set(spec.stages)
    in_order = list(dict.fromkeys(stage_of(path[0]) for path in _trained(spec.build())))
    assert in_order == ([] if "vgg" in name else list(spec.stages))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", "inception_v3", "resnet50_keras"])
def test_frozen_stages_use_their_running_statistics(name):
    spec = ENCODERS[name]
    frozen = spec.stages[:2]
    calls = _trained(spec.build(frozen_stages=frozen))
    assert {path for path, trained in calls.items() if trained} == {
        path for path in calls if stage_of(path[0]) not in frozen
    }
    assert set(calls.values()) == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "frozen"),
    [
        (lambda **kw: VGG((1, 1, 1, 1, 1), **kw), ("block1", "block2")),
        (
            lambda **kw: ResNet((1, 1), Bottleneck, width=4, small_inputs=True, **kw),
            ("stem", "stage1"),
        ),
    ],
)
def test_nothing_of_a_frozen_stage_moves(build, frozen):
    module = build(frozen_stages=frozen)
    images = jax.random.normal(KEY, (2, 32, 32, 3))
    variables = jax.jit(lambda x: module.init(KEY, x, train=False))(images)
    # Away from scales of zero, which would block every gradient.
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])

    @jax.jit
    def step(params):
        def loss(params):
            now = {**variables, "params": params}
            y, updates = module.apply(now, images, train=True, mutable=["batch_stats"])
            return jnp.sin(y).mean(), updates.get("batch_stats", {})

        return jax.grad(loss, has_aux=True)(params)

    gradients, batch_stats = step(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        moves = np.abs(gradient).max() > 0
        assert moves == (stage_of(path[0].key) not in frozen), path
    before = variables.get("batch_stats", {})
    for path, value in jax.tree_util.tree_leaves_with_path(batch_stats):
        old = before
        for key in path:
            old = old[key.key]
        assert bool((value != old).any()) == (stage_of(path[0].key) not in frozen), path


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        ResNet((1, 1), Bottleneck, width=4, small_inputs=True),
        EfficientNetLite(width=0.2, depth=0.1),
    ],
)
def test_frozen_normalisations_are_part_of_the_convolutions(module):
    images = jax.random.normal(KEY, (2, 32, 32, 3))
    variables = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape),
        jax.jit(lambda x: module.init(KEY, x, train=False))(images),
    )

    def apply(x):
        return module.apply(variables, x, train=False)

    apart = jax.jit(apply)(images)
    with written_for("gpu"):
        inside = jax.jit(lambda x: apply(x))(images)
    np.testing.assert_allclose(inside, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHALLOW)
def test_bfloat16_features_float32_variables(name):
    features, variables = _abstract(ENCODERS[name].build(dtype=jnp.bfloat16))
    assert features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        lambda **kw: VGG((1, 1, 1, 1, 1), **kw),
        lambda **kw: ResNet((1, 1), Bottleneck, width=4, small_inputs=True, **kw),
    ],
)
def test_bfloat16_is_close_to_float32(build):
    images = jax.random.normal(KEY, (2, 32, 32, 3))
    exact, rounded = build(), build(dtype=jnp.bfloat16)
    variables = jax.jit(lambda x: exact.init(KEY, x, train=False))(images)
    a, b = (
        jax.jit(lambda v, x, module=module: module.apply(v, x, train=False))(variables, images)
        for module in (exact, rounded)
    )
    error = jnp.linalg.norm(a - b.astype(jnp.float32)) / jnp.linalg.norm(a)
    assert 1e-5 < error < 0.05  # bfloat16 has eight bits: 0.004 a rounding


@pytest.mark.slow
@pytest.mark.parametrize("name", SHALLOW)
def test_every_layout_names_every_module_once(name):
    for layout, name_of in ENCODERS[name].layouts.items():
        assert len({name_of(module) for module in _modules(name)}) == len(_modules(name)), layout
