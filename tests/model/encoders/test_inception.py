"""Inception-v3 against published numbers, and its names in other libraries."""

import jax
import jax.numpy as jnp
import pytest

from jaxcap.messages.errors import InputError
from jaxcap.model.encoders import encoder_spec
from jaxcap.model.encoders.inception import keras_name, torchvision_name

KEY = jax.random.key(0, impl="rbg")


def _abstract(name, side):
    module = encoder_spec(name).build()
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=False), images)


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
def test_parameter_counts_and_shapes():
    # torchvision's 27,161,264 include an auxiliary classifier of 3,326,696.
    features, variables = _abstract("inception_v3", 299)
    assert features.shape == (2, 64, 2048)
    assert _count(variables["params"]) == 27_161_264 - 3_326_696 - 2049 * 1000
    # Keras's 23,851,784 include the running statistics.
    features, variables = _abstract("inception_v3_keras", 299)
    assert features.shape == (2, 64, 2048)
    assert _count(variables) == 23_851_784 - 2049 * 1000
    assert not any(
        "scale" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)
    )


def test_torchvision_name():
    assert torchvision_name(("stem_3b", "conv")) == "Conv2d_3b_1x1.conv"
    assert torchvision_name(("stem_4a", "norm")) == "Conv2d_4a_3x3.bn"
    assert torchvision_name(("mixed7_c", "branch3x3dbl_3a", "norm")) == (
        "Mixed_7c.branch3x3dbl_3a.bn"
    )


def test_keras_name_counts_in_the_order_of_creation():
    assert keras_name(("stem_1a", "conv")) == "conv2d_0"
    assert keras_name(("mixed5_b", "branch1x1", "norm")) == "batch_normalization_5"
    assert keras_name(("mixed5_c", "branch1x1", "conv")) == "conv2d_12"  # 5 and 7 before it
    assert keras_name(("mixed7_c", "branch_pool", "conv")) == "conv2d_93"  # the last of 94


@pytest.mark.parametrize("side", [1, 74])
def test_images_too_small_are_refused_in_plain_words(side):
    with pytest.raises(InputError, match=f"{side}×{side} pixels are too small.*give at least 75"):
        _abstract("inception_v3", side)


def test_the_smallest_image_gives_one_position():
    assert _abstract("inception_v3_keras", 75)[0].shape == (2, 1, 2048)
