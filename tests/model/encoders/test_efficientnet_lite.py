"""EfficientNet-Lite against published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.messages.errors import InputError
from jaxcap.model.encoders import encoder_spec
from jaxcap.model.encoders.efficientnet_lite import (
    EfficientNetLite,
    MBConv,
    published_name,
    scaled_blocks,
)
from jaxcap.model.encoders.freezing import stages_between

# Compiles in a tenth of the time that the default generator takes.
KEY = jax.random.key(0, impl="rbg")


def _abstract(module, side):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=False), images)


def _count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# The published totals, less the classifier's 1,281,000.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "side", "grid", "total"),
    [
        (0, 224, 7, 4_652_008),
        (1, 240, 8, 5_416_680),
        (2, 260, 9, 6_092_072),
        (3, 280, 9, 8_197_096),
        (4, 300, 10, 13_006_568),
    ],
)
def test_parameter_count_and_shape(number, side, grid, total):
    spec = encoder_spec(f"efficientnet_lite{number}")
    assert spec.input_size == side
    features, variables = _abstract(spec.build(), side)
    assert features.shape == (2, grid * grid, 1280)
    assert _count(variables["params"]) == total - 1_281_000


def test_any_input_size_works():
    features, _ = _abstract(EfficientNetLite(width=0.5, depth=0.5), 97)
    assert features.shape == (2, 16, 1280)


def test_scaled_blocks_of_lite2():
    # Worked from the table: 1.1 × (16, 24, …, 320) to multiples of 8, and
    # ceil(1.2 × (2, 2, 3, 3, 4)) blocks, the first and last stage keeping theirs.
    blocks = scaled_blocks(1.1, 1.2)
    assert [block.features for block in blocks] == (
        [16] + 3 * [24] + 3 * [48] + 4 * [88] + 4 * [120] + 5 * [208] + [352]
    )
    assert [i for i, block in enumerate(blocks) if block.stride == 2] == [1, 4, 7, 15]


def test_published_name():
    assert published_name(("stem", "conv")) == "_conv_stem"
    assert published_name(("head", "norm")) == "_bn1"
    assert published_name(("block12", "depthwise", "norm")) == "_blocks.12._bn1"


@pytest.mark.slow
def test_a_block_trains():
    module = MBConv(features=3, kernel_size=3, stride=1, expansion=2)
    x = jax.random.normal(KEY, (2, 6, 6, 3))
    variables = jax.jit(lambda x: module.init(KEY, x, train=False))(x)

    def loss(params):
        now = {**variables, "params": params}
        y, updates = module.apply(now, x, train=True, mutable=["batch_stats"])
        return jnp.square(y).mean(), updates["batch_stats"]

    gradients, batch_stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.isfinite(gradient).all(), path
        assert jnp.abs(gradient).max() > 0, path
    for part in ("expand", "depthwise", "project"):
        assert jnp.abs(batch_stats[part]["norm"]["mean"]).max() > 0, part


def test_unknown_encoder():
    with pytest.raises(InputError, match=r"'efficientnet_lite_2' is unknown.*'efficientnet_lite2'"):
        encoder_spec("efficientnet_lite_2")


@pytest.mark.slow
@pytest.mark.parametrize("branch", ["block0", "block2", "head"])
def test_stages_before_and_after_a_branch_are_the_whole(branch):
    encoder = EfficientNetLite(width=0.25, depth=0.25)
    images = jax.random.normal(KEY, (2, 32, 32, 3))
    variables = jax.jit(lambda x: encoder.init(KEY, x, train=False))(images)

    def apply(x, **stages):
        return jax.jit(lambda x: encoder.apply(variables, x, train=False, **stages))(x)

    shared = apply(images, end=branch)
    assert shared.ndim == 4
    np.testing.assert_allclose(apply(shared, begin=branch), apply(images), rtol=1e-5, atol=1e-6)


def test_stages_between():
    names = ("stem", "block0", "block1", "head")
    assert stages_between(names, None, None) == names
    assert stages_between(names, None, "block1") == ("stem", "block0")
    assert stages_between(names, "block1", None) == ("block1", "head")
    assert stages_between(names, "block0", "head") == ("block0", "block1")
    assert stages_between(names, None, "stem") == ()
