"""ResNet against published parameter counts and a PyTorch forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.encoders import encoder_spec
from jaxcap.encoders.resnet import BasicBlock, Bottleneck, ResNet, torchvision_name
from jaxcap.encoders.weights import load_weights

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


def _random_state(names_and_shapes, torch):
    """A PyTorch state dictionary that keeps activations of ordinary size."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in names_and_shapes.items():
        if len(shape) == 4:
            fan_in = shape[1] * shape[2] * shape[3]
            state[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        elif name.endswith(("bias", "mean")):
            state[name] = 0.1 * torch.randn(shape, generator=generator)
        else:
            state[name] = 0.5 + torch.rand(shape, generator=generator)
    return state


def _torch_forward(state, images, stage_sizes, torch):
    """Torchvision's ResNet, straight from its state dictionary."""
    f = torch.nn.functional

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        return f.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x, name):
        statistics = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return f.batch_norm(x, *statistics, state[f"{name}.weight"], state[f"{name}.bias"])

    x = f.relu(norm(conv(images, "conv1", 2), "bn1"))
    x = f.max_pool2d(x, 3, 2, 1)
    for i, blocks in enumerate(stage_sizes, start=1):
        for j in range(blocks):
            block, stride = f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
            convolutions = 3 if f"{block}.conv3.weight" in state else 2
            y = x
            for k in range(1, convolutions + 1):
                # The stride is the first 3×3 convolution's.
                strided = k == (2 if convolutions == 3 else 1)
                y = norm(conv(y, f"{block}.conv{k}", stride if strided else 1), f"{block}.bn{k}")
                y = f.relu(y) if k < convolutions else y
            if f"{block}.downsample.0.weight" in state:
                x = norm(conv(x, f"{block}.downsample.0", stride), f"{block}.downsample.1")
            x = f.relu(x + y)
    return x


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_equal_pytorchs(name, tmp_path):
    torch = pytest.importorskip("torch")
    module = encoder_spec(name).build()
    _, variables = _abstract(module, 64)
    leaf_names = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
    leaf_names |= {"var": "running_var", "bias": "bias"}
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        _, *modules, leaf_name = (key.key for key in path)
        shape = leaf.shape if leaf.ndim == 1 else tuple(leaf.shape[i] for i in (3, 2, 0, 1))
        shapes[f"{torchvision_name(tuple(modules))}.{leaf_names[leaf_name]}"] = shape
    state = _random_state(shapes, torch)
    torch.save({**state, "fc.weight": torch.zeros(1000, 8)}, tmp_path / "weights.pth")

    images = np.random.default_rng(0).normal(size=(2, 75, 75, 3)).astype(np.float32)
    channels_first = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    expected = _torch_forward(state, channels_first, module.stage_sizes, torch)
    expected = expected.numpy().transpose(0, 2, 3, 1)

    variables = load_weights(str(tmp_path / "weights.pth"), name, variables)
    features = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)
    error = np.abs(features.reshape(expected.shape) - expected).max() / np.abs(expected).max()
    assert error < 1e-4


def test_every_parameter_gets_a_gradient():
    module = ResNet(stage_sizes=(1,), block=Bottleneck, width=4, small_inputs=True)
    images = jax.random.normal(KEY, (4, 8, 8, 3))
    variables = jax.jit(lambda x: module.init(KEY, x, train=False))(images)
    # Away from the zero scales, behind which nothing would get one.
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])

    def loss(params):
        variables_now = {**variables, "params": params}
        features, _ = module.apply(variables_now, images, train=True, mutable=["batch_stats"])
        return jnp.square(features).mean()

    gradients = jax.jit(jax.grad(loss))(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.isfinite(gradient).all(), path
        assert jnp.abs(gradient).max() > 0, path
