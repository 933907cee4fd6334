"""Features equal those of the package `efficientnet-lite-pytorch`."""

import functools

import numpy as np
import pytest
import references
from references import relative_error

from jaxcap.data.images import decode, resize
from jaxcap.messages.errors import InputError
from jaxcap.model.encoders import ENCODERS
from jaxcap.model.encoders.weights.loading import load_weights, weights_file
from jaxcap.model.encoders.weights.torch_files import read_torch_file

pytestmark = pytest.mark.slow


def _features(model, images):
    import torch

    with torch.no_grad():
        y = model.extract_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return y.flatten(2).numpy().transpose(0, 2, 1)


def _build(number, side):
    # The package works its padding out for one size of images.
    library = pytest.importorskip("efficientnet_lite_pytorch")
    name = f"efficientnet-lite{number}"
    return library.EfficientNet.from_name(name, image_size=side)


@pytest.mark.parametrize(
    ("number", "sides"), [(0, (64, 97)), (1, (33,)), (2, (33,)), (3, (33,)), (4, (33,))]
)
def test_features_equal_with_random_weights(number, sides):
    pytest.importorskip("torch")
    spec = ENCODERS[f"efficientnet_lite{number}"]
    variables = references.random_variables(spec)
    name_of = spec.layouts["efficientnet_lite_pytorch"]
    for side in sides:
        build = functools.partial(_build, number, side)
        model = references.torch_model(build, variables, name_of, ())
        images = references.random_images(side)
        ours = references.features(spec, variables, images)
        assert relative_error(ours, _features(model, images)) < 1e-4, side


@pytest.mark.parametrize("number", [0, 1, 2])
def test_features_equal_with_published_weights(number):
    torch = pytest.importorskip("torch")
    name = f"efficientnet_lite{number}"
    spec = ENCODERS[name]
    try:
        file = weights_file("imagenet", name)
    except InputError:
        pytest.skip(f"no published weights of {name} are installed")
    model = _build(number, spec.input_size)
    state = {key: torch.from_numpy(value.copy()) for key, value in read_torch_file(file).items()}
    model.load_state_dict(state)
    model.eval()

    images = references.pictures(spec.input_size)
    if paths := references.photographs():
        images = np.stack([resize(decode(p, name=p.name), spec.input_size) for p in paths])
    variables = load_weights("imagenet", name, references.random_variables(spec))
    ours = references.features(spec, variables, np.asarray(spec.preprocessing.normalise(images)))
    theirs = _features(model, (images.astype(np.float32) - 127) / 128)
    assert relative_error(ours, theirs) < 1e-4
