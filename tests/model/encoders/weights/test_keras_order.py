"""Test the order of Keras's layers, by hand and against `model.layers`."""

import pytest
import references

from jaxcap.model.encoders.weights.keras_order import names_in_order


def test_layers_named_by_numbers_are_ordered_as_numbers():
    names = names_in_order(["block10_conv1", "block2_conv2", "block2_conv1"])
    in_order = ["block2_conv1", "block2_conv2", "block10_conv1"]
    assert names == {layer: f"conv2d_{i}" for i, layer in enumerate(in_order)}


def test_a_shortcut_comes_before_the_third_convolution():
    layers = ["conv1_conv", "conv2_block1_0_conv", "conv2_block1_1_conv", "conv2_block1_3_conv"]
    layers += ["conv2_block1_2_conv", "conv2_block1_0_bn", "conv2_block1_1_bn", "conv1_bn"]
    names = names_in_order(layers)
    assert names["conv1_conv"] == "conv2d_0"
    assert names["conv2_block1_0_conv"] == "conv2d_3"
    assert names["conv2_block1_3_conv"] == "conv2d_4"
    assert names["conv2_block1_0_bn"] == "batch_normalization_2"


def test_other_layers_have_no_order():
    assert names_in_order(["block1_conv1", "stem"]) == {}
    assert names_in_order(["conv2d_94"]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VGG19", "ResNet101", "InceptionV3"])
def test_the_order_is_that_of_keras(name):
    applications = references.keras().applications
    with references.no_random_weights():
        model = getattr(applications, name)(weights=None, include_top=False)
    expected = {}
    for kind in ("Conv2D", "BatchNormalization"):
        prefix = "conv2d" if kind == "Conv2D" else "batch_normalization"
        layers = [layer.name for layer in model.layers if type(layer).__name__ == kind]
        # Unnamed layers count on from the networks that other tests have made.
        unnamed = [layer for layer in layers if layer.startswith(prefix)]
        unnamed.sort(key=lambda layer: int(layer.removeprefix(prefix).removeprefix("_") or 0))
        names = {layer: f"{prefix}_{i}" for i, layer in enumerate(unnamed)}
        expected |= {names.get(layer, layer): f"{prefix}_{i}" for i, layer in enumerate(layers)}
    assert names_in_order(list(expected)) == expected
