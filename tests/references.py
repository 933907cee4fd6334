"""Build other libraries' networks with our random weights, to compare their features with ours.

Weights are copied from our tree to theirs under the names in the encoder's `layouts`. Every tensor
of theirs except the classifier's must be filled, so the names are tested as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

from jaxcap.model.encoders import ENCODERS, EncoderSpec

Name = Callable[[tuple[str, ...]], str]

_TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_TORCH_CLASSIFIERS = ("fc.", "_fc.", "classifier.", "AuxLogits.")
_KERAS_LEAVES = {"norm": {"scale": "gamma", "bias": "beta"}, "conv": {}}
_KERAS_LEAVES["norm"] |= {"mean": "moving_mean", "var": "moving_variance"}


def random_variables(spec: EncoderSpec, side: int = 80) -> dict[str, Any]:
    """Draw weights that keep activations near unit size, with all statistics different.

    Args:
        side: the image size used to build the network; any accepted size will do.
    """
    module = spec.build()
    images = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    # `init` would fill biases and statistics with zeros and ones: draw them all.
    abstract = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        if path[-1].key == "kernel":
            values = rng.standard_normal(leaf.shape, np.float32)
            return values * np.float32((2 / np.prod(leaf.shape[:-1])) ** 0.5)
        if path[-1].key in ("bias", "mean"):
            return rng.normal(0.0, 0.1, leaf.shape).astype(np.float32)
        values = rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        # Otherwise the sum over the fifty branches of a deep ResNet would explode.
        ends_a_branch = path[-3].key in ("conv2", "conv3", "project")
        return np.float32(0.3) * values if path[-1].key == "scale" and ends_a_branch else values

    return dict(jax.tree_util.tree_map_with_path(draw, abstract))


def random_images(side: int, batch: int = 1) -> np.ndarray:
    """Draw normalised images, float32 [batch, side, side, 3]."""
    return np.random.default_rng(side).standard_normal((batch, side, side, 3), np.float32)


def named(variables: Mapping[str, Any], name_of: Name) -> dict[tuple[str, str, str], np.ndarray]:
    """Return our tree as {(published module, "conv" or "norm", our leaf): value}."""
    values = {}
    for path, value in jax.tree_util.tree_leaves_with_path(dict(variables)):
        _, *module, leaf = (key.key for key in path)
        kind = "norm" if module[-1] == "norm" else "conv"
        values[name_of(tuple(module)), kind, leaf] = np.asarray(value)
    return values


def torch_tensors(variables: Mapping[str, Any], name_of: Name) -> dict[str, np.ndarray]:
    """Convert our tree to a PyTorch state dictionary of arrays; kernels become `[O, I, h, w]`."""
    return {
        f"{module}.{_TORCH_LEAVES[leaf]}": value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        for (module, _, leaf), value in named(variables, name_of).items()
    }


def torchvision() -> Any:
    """Import the library, also with a PyTorch without CUDA; skip the test if it is missing."""
    torch = pytest.importorskip("torch")
    try:
        import torchvision
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
        import torchvision
    return torchvision


_LIBRARIES: list[Any] = []  # an operator lives as long as its library


def keras() -> Any:
    """Import the library with its JAX backend; skip the test if it is missing."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


def torch_model(
    build: Callable[[], Any], variables: Mapping[str, Any], name_of: Name, cut: tuple[str, ...]
) -> Any:
    """Build a PyTorch network in evaluation mode with our weights.

    Args:
        cut: the modules after the features, to be replaced by the identity.
    """
    import torch

    tensors = torch_tensors(variables, name_of)
    state = {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}
    for name in [name for name in state if name.endswith("running_mean")]:
        state[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
    with torch.device("meta"):  # no random numbers for parameters that we replace
        model = build()
    result = model.load_state_dict(state, strict=False, assign=True)
    assert not result.unexpected_keys
    assert [key for key in result.missing_keys if not key.startswith(_TORCH_CLASSIFIERS)] == []
    for name in cut:
        model.set_submodule(name, torch.nn.Identity())
    return model.eval()


def torchvision_model(name: str, variables: Mapping[str, Any], **options: Any) -> Any:
    """Build torchvision's network of our name, up to the features."""
    library = torchvision()
    cut = {
        "vgg16": ("features.30", "avgpool", "classifier"),
        "vgg19": ("features.36", "avgpool", "classifier"),
        "inception_v3": ("avgpool", "dropout", "fc"),
    }.get(name, ("avgpool", "fc"))
    if name == "inception_v3":
        options = {"aux_logits": False, "init_weights": False, **options}
    return torch_model(
        lambda: getattr(library.models, name)(weights=None, **options),
        variables,
        ENCODERS[name].layouts["torchvision"],
        cut,
    )


def torch_features(model: Any, images: np.ndarray, width: int) -> np.ndarray:
    """Return the network's features `[B, P, width]` of normalised images `[B, H, W, 3]`."""
    import torch

    with torch.no_grad():
        y = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return y.reshape(len(images), width, -1).numpy().transpose(0, 2, 1)


def no_random_weights() -> Any:
    """Make Keras initialise with zeros: drawing weights would take most of a test's time."""
    return mock.patch.object(
        keras().initializers.GlorotUniform, "__call__", lambda self, shape, dtype: np.zeros(shape)
    )


def keras_model(
    build: Callable[..., Any], variables: Mapping[str, Any], name_of: Name, last: str | None = None
) -> Any:
    """Build a Keras network without its classifier and with our weights.

    Args:
        last: the layer whose output is the features; by default the network's last layer.
    """
    library = keras()
    with no_random_weights():
        model = build(weights=None, include_top=False, input_shape=(None, None, 3))
    layers = {layer.name: layer for layer in model.layers}
    for kind in ("conv2d", "batch_normalization"):  # the order of the numbers counts
        anonymous = [name for name in layers if name == kind or name.startswith(kind + "_")]
        anonymous.sort(key=lambda name: int(name.removeprefix(kind).removeprefix("_") or 0))
        layers |= {f"{kind}_{i}": layers[name] for i, name in enumerate(anonymous)}
    unfilled = {id(variable) for variable in model.variables}
    for (name, kind, leaf), value in named(variables, name_of).items():
        wanted = _KERAS_LEAVES[kind].get(leaf, leaf)
        (variable,) = (v for v in layers[name].variables if v.name == wanted)
        variable.assign(value)
        unfilled.discard(id(variable))
    assert not unfilled
    return model if last is None else library.Model(model.input, model.get_layer(last).output)


# Our name: theirs, and the layer of the features unless it is the last one.
KERAS_APPLICATIONS = {
    "vgg16_keras": ("VGG16", "block5_conv3"),
    "vgg19_keras": ("VGG19", "block5_conv4"),
    "resnet50_keras": ("ResNet50", None),
    "resnet101_keras": ("ResNet101", None),
    "resnet152_keras": ("ResNet152", None),
    "inception_v3_keras": ("InceptionV3", None),
}


def keras_application(name: str, variables: Mapping[str, Any]) -> Any:
    """Build Keras's network of our name, up to the features."""
    build, last = KERAS_APPLICATIONS[name]
    build = getattr(keras().applications, build)
    return keras_model(build, variables, ENCODERS[name].layouts["keras"], last)


def keras_features(model: Any, images: np.ndarray) -> np.ndarray:
    """Return the network's features `[B, P, D]` of normalised images `[B, H, W, 3]`."""
    weights = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    # One program for the network compiles much faster than one for each of its layers.
    y, _ = jax.jit(lambda *weights: model.stateless_call(*weights, images))(*weights)
    return np.asarray(y).reshape(y.shape[0], -1, y.shape[-1])


def features(spec: EncoderSpec, variables: Mapping[str, Any], images: np.ndarray) -> np.ndarray:
    """Return our encoder's features `[B, P, D]`."""
    module = spec.build()
    return np.asarray(jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images))


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Divide the norm of the difference by the norm of theirs."""
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def pictures(side: int) -> np.ndarray:
    """Draw two smooth coloured pictures with edges, uint8, closer to photographs than noise."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [127 + 120 * np.sin(9 * (x * a + y * b)) for a, b in [(1, 0), (0, 2), (1, 1)]]
    picture = np.stack(waves, -1)
    picture[side // 4 : side // 2, side // 3 : side // 2] = (250, 20, 60)
    return np.stack([picture, picture[::-1, :, ::-1]]).astype(np.uint8)


def photographs() -> list[Path]:
    """Return the first photographs of Flickr8k if `JAXCAP_FLICKR8K` names its folder."""
    release = os.environ.get("JAXCAP_FLICKR8K")
    return sorted(Path(release, "Flicker8k_Dataset").glob("*.jpg"))[:4] if release else []
