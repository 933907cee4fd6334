"""Read Keras's weight files without Keras.

Keras has three layouts. *Legacy* `.h5` is the layout of the published files
(`*_weights_tf_dim_ordering_tf_kernels_notop.h5`): the root, or its group `model_weights`,
lists `layer_names`, and the group of each layer lists `weight_names`. *Keras 3*
(`.weights.h5`) has `layers/CONTAINER/vars/NUMBER`. The container is named after the class of
the layer and numbered in the order of `model.layers`; early versions did not write the layer's
own name as an attribute. *`.keras`* is a zip file with a `model.weights.h5` in the layout of
Keras 3.

Keras names unnamed layers (all of Inception) `conv2d`, `conv2d_1`, … by a counter of the whole
Python session. Here they are `conv2d_0`, `conv2d_1`, …, counted from the first one in the file.
"""

from __future__ import annotations

import itertools
import mmap
import os
import re
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jaxcap.files import open_file, open_zip
from jaxcap.messages.errors import InputError
from jaxcap.model.encoders.weights.hdf5 import Dataset, Group, Hdf5Error, read_hdf5

# The names of weights in Keras 1 to 3, and those of today. The "running_std" of Keras 1 was in
# fact the variance.
_LEAVES = {
    "kernel": "kernel",
    "W": "kernel",
    "bias": "bias",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "moving_mean",
    "running_mean": "moving_mean",
    "moving_variance": "moving_variance",
    "running_std": "moving_variance",
}
# "block1_conv1_W_1:0" in old files, "kernel:0" or "kernel" in later ones.
_LEAF = re.compile(rf"(?:^|_)({'|'.join(_LEAVES)})(?:_\d+)?(?::0)?$")

# The order of the variables in a layer of Keras 3, by its class and how many there are.
# Inception's normalisations have no gamma.
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_VARIABLES: dict[tuple[str, int], tuple[str, ...]] = {
    **{(kind, 1): ("kernel",) for kind in ("conv2d", "dense")},
    **{(kind, 2): ("kernel", "bias") for kind in ("conv2d", "dense")},
    ("batch_normalization", 3): _NORM[1:],
    ("batch_normalization", 4): _NORM,
}
_COUNTED = re.compile(r"(.+?)(?:_\d+)?")
_UNNAMED = re.compile(r"(conv2d|batch_normalization)(?:_(\d{1,9}))?")

_IN_KERAS_FILE = "model.weights.h5"


class KerasTensors(NamedTuple):
    """The contents of a file.

    Attributes:
        tensors: `"LAYER/kernel"` (or `bias`, `gamma`, …) to a read-only array.
        in_order: whether the file lacks the layers' names. Convolutions and normalisations are
            then `conv2d_N` and `batch_normalization_N`, in the order of `model.layers`.
        layout: the name of the layout, for messages.
    """

    tensors: dict[str, np.ndarray]
    in_order: bool
    layout: str


def read_keras_file(path: str | Path) -> KerasTensors:
    """Read the weights of a Keras `.h5`, `.weights.h5` or `.keras` file.

    States of optimizers and metrics are skipped; configurations are ignored.

    Raises:
        InputError: the file is missing, cut short, damaged, or not Keras's, or pyfive is missing.
    """
    path = Path(path)
    try:
        data, is_archive = _content(path)
        root = read_hdf5(data)
        names = root.attributes
        group = root.members.get("model_weights")
        if isinstance(group, Group):
            return _legacy(group, "Keras .h5 (whole model)")
        if any(name in names for name in ("layer_names", "layer_names0")):
            return _legacy(root, "Keras .h5")
        return _keras3(root, "Keras .keras" if is_archive else "Keras 3 .weights.h5")
    except (Hdf5Error, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {error}.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _content(path: Path) -> tuple[memoryview, bool]:
    """Return the bytes of an HDF5 file, and whether it was an entry of a `.keras` file."""
    with open_file(path) as file:
        start = file.read(2)
        if not start:
            raise Hdf5Error("it is empty")
        if start != b"PK":
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), False
        size = os.fstat(file.fileno()).st_size
        try:
            with open_zip(file) as archive:
                info = archive.getinfo(_IN_KERAS_FILE)
                # Keras does not compress; a compressed entry could expand to any size.
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                    raise Hdf5Error(f"damaged: its '{_IN_KERAS_FILE}' is compressed")
                return memoryview(archive.read(info)), True
        except (KeyError, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
            raise Hdf5Error(f"a damaged .keras file ({error})") from None


def _legacy(root: Group, layout: str) -> KerasTensors:
    layers: dict[str, dict[str, np.ndarray]] = {}
    for layer in _strings(root, "layer_names"):
        group = root.find(layer)
        if not isinstance(group, Group):
            raise Hdf5Error(f"damaged: it lists the layer '{layer}' but does not have it")
        weights = _strings(group, "weight_names")
        # The group of a nested model has several scopes, which name its layers.
        scopes = {weight.rpartition("/")[0] for weight in weights}
        for weight in weights:
            scope, _, last = weight.rpartition("/")
            name = layer if len(scopes) == 1 else scope.rpartition("/")[2]
            leaf = _LEAF.search(last)
            _add(layers, name, _LEAVES[leaf[1]] if leaf else last, _array(group, weight))
    if not layers:
        raise Hdf5Error("lists no layer that has weights")
    return _named(layers, layout)


def _keras3(root: Group, layout: str) -> KerasTensors:
    containers: list[tuple[str, str | None, list[np.ndarray]]] = []
    for top in ("layers", "_layer_checkpoint_dependencies"):  # the latter until Keras 2.15
        if isinstance(group := root.members.get(top), Group):
            _collect(group, containers)
    if not containers:
        found = ", ".join(list(root.members)[:8]) or "nothing"
        raise Hdf5Error(f"an HDF5 file, but not of Keras's weights: it has {found}")
    layers: dict[str, dict[str, np.ndarray]] = {}
    in_order = any(name is None for _, name, _ in containers)
    for container, name, arrays in containers:
        counted = _COUNTED.fullmatch(container)
        kind = counted[1] if counted else container
        leaves = _VARIABLES.get((kind, len(arrays)), tuple(map(str, range(len(arrays)))))
        for leaf, array in zip(leaves, arrays, strict=True):
            _add(layers, container if in_order or name is None else name, leaf, array)
    return _named(layers, layout, in_order=in_order)


def _collect(group: Group, into: list[tuple[str, str | None, list[np.ndarray]]]) -> None:
    """Add all layers at or below `group`: container, name if known, variables."""
    for container, item in group.members.items():
        if not isinstance(item, Group):
            continue
        variables = item.members.get("vars")
        if isinstance(variables, Group) and variables.members:
            numbers = [str(i) for i in range(len(variables.members))]
            if set(numbers) != set(variables.members):
                raise Hdf5Error(f"damaged: the variables of '{container}' are not numbered from 0")
            arrays = [_array(variables, number) for number in numbers]
            into.append((container, next(iter(variables.attributes.get("name", [])), None), arrays))
        _collect(Group({k: v for k, v in item.members.items() if k != "vars"}, {}), into)


def _add(
    layers: dict[str, dict[str, np.ndarray]], layer: str, leaf: str, array: np.ndarray
) -> None:
    weights = layers.setdefault(layer, {})
    if leaf in weights:
        raise Hdf5Error(f"has two layers '{layer}' with a '{leaf}'")
    weights[leaf] = array


def _array(group: Group, path: str) -> np.ndarray:
    found = group.find(path)
    if not isinstance(found, Dataset) or found.array is None:
        raise Hdf5Error(f"damaged: '{path}' is not an array of numbers")
    if found.array.dtype == np.dtype("V2"):
        if found.attributes.get("dtype") != ["bfloat16"]:
            raise Hdf5Error(f"damaged: '{path}' is not an array of numbers")
        return found.array.view(ml_dtypes.bfloat16)
    return found.array


def _strings(group: Group, name: str) -> list[str]:
    """Return a list of strings; Keras splits a long one into NAME0, NAME1, …"""
    if name in group.attributes:
        return group.attributes[name]
    parts = (group.attributes.get(f"{name}{i}") for i in itertools.count())
    present = itertools.takewhile(lambda part: part is not None, parts)
    return [string for part in present for string in part or ()]


def _named(
    layers: dict[str, dict[str, np.ndarray]], layout: str, *, in_order: bool = False
) -> KerasTensors:
    names = _counted_from_zero(list(layers)) | _of_first_resnet50(list(layers))
    if len({names.get(layer, layer) for layer in layers}) < len(layers):
        raise Hdf5Error("has layers of the same name")
    tensors = {
        f"{names.get(layer, layer)}/{leaf}": array
        for layer, weights in layers.items()
        for leaf, array in weights.items()
    }
    return KerasTensors(tensors, in_order, layout)


def _counted_from_zero(layers: list[str]) -> dict[str, str]:
    """Number unnamed layers from 0; Keras may start at any number, such as `conv2d_95`."""
    numbers: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for layer in layers:
        if found := _UNNAMED.fullmatch(layer):
            numbers[found[1]].append((int(found[2] or 0), layer))
    return {
        layer: f"{kind}_{i}"
        for kind, counted in numbers.items()
        for i, (_, layer) in enumerate(sorted(counted))
    }


def _of_first_resnet50(layers: list[str]) -> dict[str, str]:
    """Map the names of Keras's first ResNet-50 (2016) to those of today.

    `"res2b_branch2a"` is `"conv2_block2_1_conv"`, `"bn2a_branch1"` is `"conv2_block1_0_bn"`.
    """
    if "bn_conv1" not in layers:
        return {}
    names = {"conv1": "conv1_conv", "bn_conv1": "conv1_bn"}
    for layer in layers:
        if found := re.fullmatch(r"(res|bn)([2-5])([a-f])_branch(1|2[abc])", layer):
            kind, stage, block, branch = found.groups()
            place = "0" if branch == "1" else str("abc".index(branch[1]) + 1)
            leaf = "conv" if kind == "res" else "bn"
            names[layer] = f"conv{stage}_block{ord(block) - ord('a') + 1}_{place}_{leaf}"
    return names
