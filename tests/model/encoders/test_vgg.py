"""VGG against published parameter counts, and its names in other libraries."""

import jax
import jax.numpy as jnp
import pytest

from jaxcap.messages.errors import InputError
from jaxcap.model.encoders import encoder_spec
from jaxcap.model.encoders.vgg import VGG, VGG16_BLOCKS, VGG19_BLOCKS, torchvision_name

KEY = jax.random.key(0, impl="rbg")


def _abstract(module, side):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=False), images)


# The published totals, less the three dense layers: 25088 × 4096, 4096 × 4096, 4096 × 1000.
@pytest.mark.parametrize(("name", "total"), [("vgg16", 138_357_544), ("vgg19", 143_667_240)])
@pytest.mark.parametrize("publisher", ["", "_keras"])
def test_parameter_count_and_shape(name, total, publisher):
    features, variables = _abstract(encoder_spec(name + publisher).build(), 224)
    assert features.shape == (2, 14 * 14, 512)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == total - (25_089 * 4096 + 4097 * 4096 + 4097 * 1000)


def test_torchvision_name():
    # Convolutions of torchvision's vgg16, from its printed form.
    numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    ours = [(i + 1, j + 1) for i, size in enumerate(VGG16_BLOCKS) for j in range(size)]
    for number, (block, conv) in zip(numbers, ours, strict=True):
        module = (f"block{block}_conv{conv}",)
        assert torchvision_name(module, block_sizes=VGG16_BLOCKS) == f"features.{number}"
    assert torchvision_name(("block5_conv4",), block_sizes=VGG19_BLOCKS) == "features.34"


def test_a_grid_is_sixteen_times_smaller_rounded_down():
    module = VGG((1, 1, 1, 1, 1))
    assert _abstract(module, 47)[0].shape == (2, 2 * 2, 512)
    assert _abstract(module, 16)[0].shape == (2, 1, 512)


@pytest.mark.parametrize("side", [1, 15])
def test_images_too_small_are_refused_in_plain_words(side):
    message = f"{side}×{side} pixels are too small for VGG; give at least 16 "
    with pytest.raises(InputError, match=message):
        _abstract(encoder_spec("vgg16").build(), side)
