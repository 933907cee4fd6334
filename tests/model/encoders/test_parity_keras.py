"""Features equal those of `keras.applications`, with equal random weights."""

import numpy as np
import pytest
import references
from references import relative_error

from jaxcap.model.encoders import ENCODERS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("vgg16_keras", (64, 97)),
        ("vgg19_keras", (48, 65)),
        ("resnet50_keras", (64, 97)),
        ("resnet101_keras", (65,)),
        ("resnet152_keras", (49,)),
        ("inception_v3_keras", (75, 96)),
    ],
)
def test_features_equal_keras(name, sides):
    spec = ENCODERS[name]
    variables = references.random_variables(spec)
    model = references.keras_application(name, variables)
    for side in sides:
        images = references.random_images(side)
        ours = references.features(spec, variables, images)
        theirs = references.keras_features(model, images)
        assert relative_error(ours, theirs) < 1e-4, side


@pytest.mark.parametrize("name", ["resnet50_keras", "inception_v3_keras"])
def test_normalisation_is_keras(name):
    # An epsilon of 1e-5 for 1.001e-5 would hide in the rounding of the features.
    spec = ENCODERS[name]
    build = getattr(references.keras().applications, references.KERAS_APPLICATIONS[name][0])
    with references.no_random_weights():
        model = build(weights=None, include_top=False)
    norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    ours = spec.build().conv_norm.keywords
    assert {layer.epsilon for layer in norms} == {ours["epsilon"]}
    assert {layer.momentum for layer in norms} == {ours["momentum"]}


def test_a_batch_of_different_images_is_not_mixed_up():
    spec = ENCODERS["vgg16_keras"]
    variables = references.random_variables(spec)
    images = references.random_images(33, batch=3)
    model = references.keras_application("vgg16_keras", variables)
    ours = references.features(spec, variables, images)
    for i in range(3):
        theirs = references.keras_features(model, images[i : i + 1])
        assert relative_error(ours[i : i + 1], theirs) < 1e-4
    assert not np.allclose(ours[0], ours[1], rtol=0.1)
