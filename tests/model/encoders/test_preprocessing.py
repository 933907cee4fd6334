"""From a JPEG file to features: the numbers that the publisher's own preprocessing gives."""

import jax
import numpy as np
import pytest
import references
from PIL import Image
from references import relative_error

from jaxcap.data.images import decode, resize
from jaxcap.model.encoders import ENCODERS, Preprocessing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Files of odd and even sides, wide and tall, one of them grey; and real photographs."""
    folder = tmp_path_factory.mktemp("jpegs")
    wide, tall = references.pictures(211)
    Image.fromarray(wide[:143]).save(folder / "wide.jpg", quality=90)
    Image.fromarray(tall[:, :98]).save(folder / "tall.jpg", quality=75, subsampling=2)
    Image.fromarray(wide[:60, :60]).convert("L").save(folder / "small and grey.jpg")
    return sorted(folder.iterdir()) + references.photographs()


def _load(jpegs, side):
    """Our way from files to images, uint8 [B, side, side, 3]."""
    return np.stack([resize(decode(path, name=path.name), side) for path in jpegs])


def test_normalise_by_hand():
    pixels = np.array([[0, 127, 255], [10, 20, 30]], np.uint8).reshape(1, 1, 2, 3)
    scaling = Preprocessing(mean=(0.0, 27.0, 55.0), scale=(1.0, 10.0, 100.0))
    images = np.asarray(scaling.normalise(np.tile(pixels, (1, 2, 1, 1))))
    np.testing.assert_allclose(images[0, 1], [[0.0, 10.0, 2.0], [10.0, -0.7, -0.25]], rtol=1e-6)
    # Blue comes first, and the first mean is blue's.
    scaling = Preprocessing(mean=(5.0, 20.0, 0.0), scale=(1.0, 1.0, 10.0), bgr=True)
    images = np.asarray(scaling.normalise(np.tile(pixels, (1, 2, 1, 1))))
    np.testing.assert_allclose(images[0, 1], [[250.0, 107.0, 0.0], [25.0, 0.0, 1.0]], rtol=1e-6)


@pytest.mark.parametrize("side", [64, 97, 224])
def test_decoding_and_resizing_equal_torchvisions(jpegs, side):
    transforms = references.torchvision().transforms
    functional, bicubic = transforms.functional, transforms.InterpolationMode.BICUBIC
    for path, ours in zip(jpegs, _load(jpegs, side), strict=True):
        with Image.open(path) as file:
            image = file.convert("RGB")
        resized = functional.resize(image, [side, side], bicubic, antialias=True)
        np.testing.assert_array_equal(ours, np.asarray(resized), err_msg=path.name)
        # PyTorch's own kernels; Pillow's round and clip between rows and columns.
        tensor = functional.pil_to_tensor(image)
        tensor = functional.resize(tensor, [side, side], bicubic, antialias=True)
        difference = np.abs(ours.astype(int) - tensor.numpy().transpose(1, 2, 0))
        assert difference.mean() < 0.3, path.name
        assert (difference > 1).mean() < 0.005, path.name


@pytest.mark.parametrize(("name", "side"), [("vgg16", 64), ("resnet18", 97), ("inception_v3", 96)])
def test_features_equal_torchvisions(jpegs, name, side):
    # torchvision's Inception takes the same pixels as the others, then rescales them.
    options = {"transform_input": True} if name == "inception_v3" else {}
    functional = references.torchvision().transforms.functional
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = _load(jpegs, side)
    tensors = [
        functional.normalize(functional.to_tensor(image), mean, deviation) for image in images
    ]
    theirs = np.stack([tensor.numpy().transpose(1, 2, 0) for tensor in tensors])
    variables = references.random_variables(ENCODERS[name])
    model = references.torchvision_model(name, variables, **options)
    ours = _features(name, variables, images)
    theirs = references.torch_features(model, theirs, ours.shape[-1])
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    ("name", "module", "side"),
    [
        ("vgg16_keras", "vgg16", 64),
        ("inception_v3_keras", "inception_v3", 75),
    ],
)
def test_features_equal_keras(jpegs, name, module, side):
    preprocess = getattr(references.keras().applications, module).preprocess_input
    images = _load(jpegs, side)
    variables = references.random_variables(ENCODERS[name])
    model = references.keras_application(name, variables)
    theirs = references.keras_features(model, preprocess(images.astype(np.float32)))
    assert relative_error(_features(name, variables, images), theirs) < 1e-4


def test_pixels_equal_efficientnet_lites(jpegs):
    images = _load(jpegs, 64)
    ours = ENCODERS["efficientnet_lite0"].preprocessing.normalise(images)
    np.testing.assert_allclose(ours, (images.astype(np.float64) - 127) / 128, atol=1e-6)


def _features(name, variables, images):
    spec = ENCODERS[name]
    normalised = np.asarray(jax.jit(spec.preprocessing.normalise)(images))
    return references.features(spec, variables, normalised)
