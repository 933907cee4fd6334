"""ResNet against published parameter counts, and its names in other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.model.encoders import encoder_spec
from jaxcap.model.encoders.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    huggingface_name,
    keras_name,
    torchvision_name,
)

# torchvision's published totals; the classifier has 1000 × D + 1000.
TOTALS = {
    "resnet18": (11_689_512, 512),
    "resnet34": (21_797_672, 512),
    "resnet50": (25_557_032, 2048),
    "resnet101": (44_549_160, 2048),
    "resnet152": (60_192_808, 2048),
}

# Compiles in a tenth of the time that the default generator takes.
KEY = jax.random.key(0, impl="rbg")


def _abstract(module, side):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=False), images)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOTALS)
def test_parameter_count_and_shape(name):
    total, width = TOTALS[name]
    features, variables = _abstract(encoder_spec(name).build(), 224)
    assert features.shape == (2, 49, width)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == total - (1000 * width + 1000)


def test_small_resnet_gives_a_five_by_five_grid():
    spec = encoder_spec("resnet_small")
    assert spec.input_size == 80
    features, _ = _abstract(spec.build(), 80)
    assert features.shape == (2, 25, 128)


def test_torchvision_name():
    assert torchvision_name(("stem", "norm")) == "bn1"
    assert torchvision_name(("stage4_block22", "conv3", "norm")) == "layer4.22.bn3"
    assert torchvision_name(("stage2_block0", "shortcut", "conv")) == "layer2.0.downsample.0"


def test_huggingface_name():
    assert huggingface_name(("stem", "conv")) == "resnet.embedder.embedder.convolution"
    stages = "resnet.encoder.stages"
    assert huggingface_name(("stage4_block22", "conv3", "norm")) == (
        f"{stages}.3.layers.22.layer.2.normalization"
    )
    assert huggingface_name(("stage1_block0", "shortcut", "conv")) == (
        f"{stages}.0.layers.0.shortcut.convolution"
    )


def test_keras_name():
    assert keras_name(("stem", "norm")) == "conv1_bn"
    assert keras_name(("stage4_block22", "conv3", "conv")) == "conv5_block23_3_conv"
    assert keras_name(("stage1_block0", "shortcut", "norm")) == "conv2_block1_0_bn"


# Keras's published totals, which count the running statistics too.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("resnet50_keras", 25_636_712),
        ("resnet101_keras", 44_707_176),
        ("resnet152_keras", 60_419_944),
    ],
)
def test_keras_parameter_count(name, total):
    _, variables = _abstract(encoder_spec(name).build(), 64)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == total - (1000 * 2048 + 1000)


@pytest.mark.slow
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_fresh_block_is_its_shortcut(block):
    # The last scale of the branch starts at zero.
    channels = 8 if block is BasicBlock else 32
    x = jax.random.normal(KEY, (2, 6, 6, channels))
    module = block(width=8)
    init = jax.jit(lambda x: module.init_with_output(KEY, x, train=False))
    y, variables = init(x)
    assert "shortcut" not in variables["params"]
    np.testing.assert_array_equal(y, jax.nn.relu(x))


@pytest.mark.slow
def test_every_parameter_gets_a_gradient():
    module = ResNet(stage_sizes=(1,), block=Bottleneck, width=4, small_inputs=True)
    images = jax.random.normal(KEY, (4, 8, 8, 3))
    variables = jax.jit(lambda x: module.init(KEY, x, train=False))(images)
    # Away from scales of zero, which would block every gradient.
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])

    def loss(params):
        variables_now = {**variables, "params": params}
        features, _ = module.apply(variables_now, images, train=True, mutable=["batch_stats"])
        return jnp.square(features).mean()

    gradients = jax.jit(jax.grad(loss))(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.isfinite(gradient).all(), path
        assert jnp.abs(gradient).max() > 0, path
