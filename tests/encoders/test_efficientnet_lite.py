"""EfficientNet-Lite against published numbers and the PyTorch implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.encoders import Preprocessing, encoder_spec
from jaxcap.encoders.efficientnet_lite import (
    EfficientNetLite,
    MBConv,
    published_name,
    scaled_blocks,
)
from jaxcap.encoders.torch_files import read_torch_file
from jaxcap.encoders.weights import load_weights, weights_file
from jaxcap.errors import InputError

# Compiles in a tenth of the time that the default generator takes.
KEY = jax.random.key(0, impl="rbg")


def _abstract(module, side):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=False), images)


def _count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# The published totals, less the classifier's 1,281,000.
@pytest.mark.parametrize(
    ("number", "side", "grid", "total"),
    [(0, 224, 7, 4_652_008), (1, 240, 8, 5_416_680), (2, 260, 9, 6_092_072)],
)
def test_parameter_count_and_shape(number, side, grid, total):
    spec = encoder_spec(f"efficientnet_lite{number}")
    assert spec.input_size == side
    features, variables = _abstract(spec.build(), side)
    assert features.shape == (2, grid * grid, 1280)
    assert _count(variables["params"]) == total - 1_281_000


def test_parameter_count_of_lite4():
    _, variables = _abstract(EfficientNetLite(width=1.4, depth=1.8), 64)
    assert _count(variables["params"]) == 13_006_568 - 1_281_000


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


def test_normalise():
    lite = encoder_spec("efficientnet_lite0").preprocessing
    pixels = np.array([0, 127, 255], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(lite.normalise(pixels).ravel(), [-127 / 128, 0.0, 1.0])
    by_hand = Preprocessing(mean=(0.0, 27.0, 55.0), scale=(1.0, 10.0, 100.0))
    np.testing.assert_allclose(by_hand.normalise(pixels).ravel(), [0.0, 10.0, 2.0])


def test_unknown_encoder():
    with pytest.raises(InputError, match=r"'efficientnet_lite_2' is unknown.*'efficientnet_lite2'"):
        encoder_spec("efficientnet_lite_2")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "resnet_small"])
def test_bfloat16_features_float32_variables(name):
    features, variables = _abstract(encoder_spec(name).build(dtype=jnp.bfloat16), 64)
    assert features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def _pictures(side):
    """Two smooth coloured pictures with edges, more like photographs than noise is."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [127 + 120 * np.sin(9 * (x * a + y * b)) for a, b in [(1, 0), (0, 2), (1, 1)]]
    picture = np.stack(waves, -1)
    picture[side // 4 : side // 2, side // 3 : side // 2] = (250, 20, 60)
    return np.stack([picture, picture[::-1, :, ::-1]]).astype(np.uint8)


@pytest.mark.parametrize("number", [0, 2])
def test_features_equal_pytorchs(number):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    name = f"efficientnet_lite{number}"
    try:
        file = weights_file("imagenet", name)
    except InputError:
        pytest.skip(f"no published weights of {name} are installed")
    spec = encoder_spec(name)
    images = np.asarray(spec.preprocessing.normalise(_pictures(spec.input_size)))

    theirs = reference.EfficientNet.from_name(name.replace("_", "-"))
    state = {key: torch.from_numpy(value.copy()) for key, value in read_torch_file(file).items()}
    theirs.load_state_dict(state)
    theirs.eval()
    with torch.no_grad():
        expected = theirs.extract_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    expected = expected.numpy().transpose(0, 2, 3, 1)

    module = spec.build()
    _, variables = _abstract(module, 64)
    variables = load_weights("imagenet", name, variables)
    features = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)
    error = np.abs(features.reshape(expected.shape) - expected).max() / np.abs(expected).max()
    assert error < 1e-4
