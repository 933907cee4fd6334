"""Test the reader of Keras files on ten years of layouts, written by hand and by Keras."""

import sys
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
import references

from jaxcap.messages.errors import InputError
from jaxcap.model.encoders import ENCODERS
from jaxcap.model.encoders.weights.fitting import encoder_shapes
from jaxcap.model.encoders.weights.keras_files import read_keras_file
from jaxcap.model.encoders.weights.loading import load_weights

pytestmark = pytest.mark.slow

h5py = pytest.importorskip("h5py")
pytest.importorskip("pyfive")
NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def _legacy(path, layers, within=None):
    """`{layer: {weight name: array}}` as Keras 1 and 2 lay it down."""
    with h5py.File(path, "w") as file:
        root = file.create_group(within) if within else file
        root.attrs["layer_names"] = [name.encode() for name in layers]
        root.attrs["keras_version"] = b"2.0.4"
        for layer, weights in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, array in weights.items():
                group[name] = array
    return path


def _keras3(path, containers):
    """`{container: (layer's name or None, arrays)}` as Keras 3 lays it down."""
    with h5py.File(path, "w") as file:
        for container, (name, arrays) in containers.items():
            group = file.create_group(f"layers/{container}/vars")
            if name is not None:
                group.attrs["name"] = name
            for i, array in enumerate(arrays):
                group[str(i)] = array
    return path


def _numbers(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


def test_the_published_vgg_layout_of_keras_1(tmp_path):
    kernel, bias = _numbers(3, 3, 3, 2), _numbers(2)
    weights = {"block1_conv1_W_1:0": kernel, "block1_conv1_b_1:0": bias}
    path = _legacy(tmp_path / "a.h5", {"input_1": {}, "block1_conv1": weights})
    found = read_keras_file(path)
    assert list(found.tensors) == ["block1_conv1/kernel", "block1_conv1/bias"]
    np.testing.assert_array_equal(found.tensors["block1_conv1/kernel"], kernel)
    np.testing.assert_array_equal(found.tensors["block1_conv1/bias"], bias)
    assert not found.in_order


def test_the_names_of_keras_2_and_of_a_whole_model(tmp_path):
    weights = {f"conv1_bn/{name}:0": np.full(2, i, "f4") for i, name in enumerate(NORM)}
    path = _legacy(tmp_path / "a.h5", {"conv1_bn": weights}, within="model_weights")
    found = read_keras_file(path)
    assert found.layout == "Keras .h5 (whole model)"
    assert {name: array[0] for name, array in found.tensors.items()} == {
        "conv1_bn/gamma": 0,
        "conv1_bn/beta": 1,
        "conv1_bn/moving_mean": 2,
        "conv1_bn/moving_variance": 3,
    }


def test_layers_of_a_nested_model_keep_their_names(tmp_path):
    inner = {"conv1_conv/kernel:0": _numbers(2), "conv1_bn/gamma:0": _numbers(3)}
    outer = {"resnet50": inner, "dense": {"dense/kernel:0": _numbers(4)}}
    found = read_keras_file(_legacy(tmp_path / "a.h5", outer))
    assert list(found.tensors) == ["conv1_conv/kernel", "conv1_bn/gamma", "dense/kernel"]


def test_the_group_names_a_layer_whose_weights_are_numbered(tmp_path):
    path = _legacy(tmp_path / "a.h5", {"conv1_conv": {"conv1_conv_3/kernel:0": _numbers(2)}})
    assert list(read_keras_file(path).tensors) == ["conv1_conv/kernel"]


def test_split_lists_of_names_are_joined(tmp_path):
    path = _legacy(tmp_path / "a.h5", {"a": {"a/bias:0": _numbers(1)}, "b": {}, "c": {}})
    with h5py.File(path, "r+") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names0"] = [b"c", b"b"]
        file.attrs["layer_names1"] = [b"a"]
    assert list(read_keras_file(path).tensors) == ["a/bias"]


def test_the_first_resnet50_is_renamed(tmp_path):
    layers = {
        "conv1": {"conv1_W:0": np.float32(0)},
        "bn_conv1": {"bn_conv1_running_mean:0": np.float32(1), "bn_conv1_running_std:0": 2.0},
        "res2a_branch1": {"res2a_branch1_b:0": np.float32(3)},
        "res3d_branch2c": {"res3d_branch2c_W:0": np.float32(4)},
        "bn5c_branch2a": {"bn5c_branch2a_gamma:0": np.float32(5)},
        "fc1000": {"fc1000_W:0": np.float32(6)},
    }
    found = read_keras_file(_legacy(tmp_path / "a.h5", layers)).tensors
    assert {name: int(value) for name, value in found.items()} == {
        "conv1_conv/kernel": 0,
        "conv1_bn/moving_mean": 1,
        "conv1_bn/moving_variance": 2,
        "conv2_block1_0_conv/bias": 3,
        "conv3_block4_3_conv/kernel": 4,
        "conv5_block3_1_bn/gamma": 5,
        "fc1000/kernel": 6,
    }


@pytest.mark.parametrize("first", [0, 1, 95, 998])
def test_unnamed_layers_are_counted_from_the_first(first, tmp_path):
    # Past 999 an order by letters would go wrong; the order in the file is that of the graph.
    names = ["conv2d" if i == 0 else f"conv2d_{i}" for i in range(first, first + 4)]
    layers = {names[i]: {f"{names[i]}/kernel:0": np.float32(i)} for i in (0, 2, 3, 1)}
    found = read_keras_file(_legacy(tmp_path / "a.h5", layers)).tensors
    assert {name: int(value) for name, value in found.items()} == {
        f"conv2d_{i}/kernel": i for i in range(4)
    }


def test_keras_3_names_and_variables(tmp_path):
    containers = {
        "conv2d": ("conv1_conv", [_numbers(1, 1, 2, 3), np.float32(1)]),
        "batch_normalization": ("conv1_bn", [np.full(3, i, "f4") for i in range(4)]),
        "batch_normalization_1": ("plain", [np.full(3, i, "f4") for i in range(1, 4)]),
        "activation": ("relu", []),
    }
    found = read_keras_file(_keras3(tmp_path / "a.weights.h5", containers))
    assert not found.in_order
    assert found.tensors["conv1_conv/kernel"].shape == (1, 1, 2, 3)
    assert found.tensors["conv1_conv/bias"] == 1
    for layer, leaves in (("conv1_bn", NORM), ("plain", NORM[1:])):
        for leaf in leaves:
            assert found.tensors[f"{layer}/{leaf}"][0] == NORM.index(leaf)
    assert len(found.tensors) == 2 + 4 + 3


@pytest.mark.parametrize("top", ["layers", "_layer_checkpoint_dependencies"])
def test_keras_3_without_names_gives_the_order(top, tmp_path):
    containers = {"conv2d": (None, [np.float32(0)]), "conv2d_1": (None, [np.float32(1)])}
    path = _keras3(tmp_path / "a.weights.h5", containers)
    with h5py.File(path, "r+") as file:
        if top != "layers":
            file.move("layers", top)
        file["optimizer/vars/0"] = np.zeros(9)  # of a compiled model: not weights
    found = read_keras_file(path)
    assert found.in_order
    assert found.tensors == {"conv2d_0/kernel": 0, "conv2d_1/kernel": 1}


def test_bfloat16_as_keras_writes_it(tmp_path):
    values = np.array([[1.5, -3]], ml_dtypes.bfloat16)
    path = _keras3(tmp_path / "a.weights.h5", {"conv2d": ("a", [values.view("V2")])})
    with pytest.raises(InputError, match="not an array of numbers"):
        read_keras_file(path)
    with h5py.File(path, "r+") as file:
        file["layers/conv2d/vars/0"].attrs["dtype"] = "bfloat16"
    np.testing.assert_array_equal(read_keras_file(path).tensors["a/kernel"], values)


def test_reads_a_keras_archive(tmp_path):
    inner = _keras3(tmp_path / "model.weights.h5", {"conv2d": ("a", [_numbers(2)])})
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.keras", "w", compression) as archive:
            archive.write(inner, "model.weights.h5")
            archive.writestr("config.json", "{}")
        if compression == zipfile.ZIP_STORED:
            assert list(read_keras_file(tmp_path / "a.keras").tensors) == ["a/kernel"]
        else:
            with pytest.raises(InputError, match=r"a\.keras: damaged.*compressed"):
                read_keras_file(tmp_path / "a.keras")
    content = (tmp_path / "a.keras").read_bytes()
    for length in (2, 40, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.keras").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.keras"):
            read_keras_file(tmp_path / "cut.keras")


def test_without_pyfive_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    inner = _keras3(tmp_path / "a.weights.h5", {"conv2d": ("a", [_numbers(2)])})
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.write(inner, "model.weights.h5")
    for name in [name for name in sys.modules if name.split(".")[0] == "pyfive"] + ["pyfive"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("a.weights.h5", "a.keras"):
        with pytest.raises(InputError, match=rf"{name}: .* pip install 'jaxcap\[keras\]'\.$"):
            read_keras_file(tmp_path / name)


def test_other_files_are_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(InputError, match=r"a\.h5: .* not of Keras's weights: it has images"):
        read_keras_file(tmp_path / "a.h5")
    _legacy(tmp_path / "b.h5", {"a": {}})
    with pytest.raises(InputError, match="no layer that has weights"):
        read_keras_file(tmp_path / "b.h5")
    _keras3(tmp_path / "c.h5", {"conv2d": ("a", [_numbers(1)]), "conv2d_1": ("a", [_numbers(1)])})
    with pytest.raises(InputError, match="two layers 'a'"):
        read_keras_file(tmp_path / "c.h5")
    (tmp_path / "d.h5").touch()
    with pytest.raises(InputError, match=r"d\.h5: it is empty"):
        read_keras_file(tmp_path / "d.h5")
    with pytest.raises(InputError, match=r"none\.h5: cannot be read: No such file"):
        read_keras_file(tmp_path / "none.h5")


def test_a_damaged_list_of_names_is_refused(tmp_path):
    path = _legacy(tmp_path / "a.h5", {"a": {"a/bias:0": _numbers(1)}})
    with h5py.File(path, "r+") as file:
        file["a"].attrs["weight_names"] = [b"a/../../bias:0"]
    with pytest.raises(InputError, match=r"'a/\.\./\.\./bias:0' is not an array"):
        read_keras_file(path)


# From here on files are written by Keras itself. Weights go into its network by the layers'
# names, and must come back from the file bit by bit.

MODELS = {
    "vgg16_keras": "VGG16",
    "resnet50_keras": "ResNet50",
    "inception_v3_keras": "InceptionV3",
}


@pytest.fixture(scope="module", params=MODELS)
def written(request):
    """An encoder's name, its random weights, and a Keras network that has them."""
    keras = references.keras()
    keras.layers.Conv2D(1, 1)  # the session's counters do not start with our network
    keras.layers.BatchNormalization()
    spec = ENCODERS[request.param]
    variables = references.random_variables(spec)
    build = getattr(keras.applications, MODELS[request.param])
    model = references.keras_model(build, variables, spec.layouts["keras"])
    return request.param, variables, model


@pytest.mark.parametrize("kind", [".weights.h5", "unnamed.weights.h5", ".h5", ".keras"])
@pytest.mark.filterwarnings("ignore")
def test_reads_what_keras_writes(kind, written, tmp_path):
    name, variables, model = written
    path = tmp_path / f"a{kind}"
    if kind.endswith("weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    if kind.startswith("unnamed"):  # as Keras 3.0 wrote it
        with h5py.File(path, "r+") as file:
            for group in file["layers"].values():
                group["vars"].attrs.pop("name", None)
        assert read_keras_file(path).in_order
    loaded = load_weights(str(path), name, encoder_shapes(name))
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_features_from_a_file_equal_keras(tmp_path):
    spec = ENCODERS["vgg16_keras"]
    build, name_of = references.keras().applications.VGG16, spec.layouts["keras"]
    model = references.keras_model(build, references.random_variables(spec), name_of)
    model.save_weights(tmp_path / "a.weights.h5")
    shapes = encoder_shapes("vgg16_keras")
    loaded = load_weights(str(tmp_path / "a.weights.h5"), "vgg16_keras", shapes)
    images = references.random_images(32)
    cut = type(model)(model.input, model.get_layer("block5_conv3").output)
    ours, theirs = references.features(spec, loaded, images), references.keras_features(cut, images)
    assert references.relative_error(ours, theirs) < 1e-4
