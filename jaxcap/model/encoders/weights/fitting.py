"""Match the tensors of a weight file to the variables of an encoder."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcap.model.encoders import ENCODERS, NameOf, encoder_spec
from jaxcap.model.encoders.weights.keras_order import names_in_order
from jaxcap.model.encoders.weights.weight_files import Naming, WeightFile

_TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_KERAS_LEAVES = {
    "kernel": "kernel",
    "scale": "gamma",
    "bias": "bias",  # of a convolution; a normalisation's is "beta"
    "mean": "moving_mean",
    "var": "moving_variance",
}

# A leaf of an encoder's variables: ("params", "stage1_block0", "conv1", "conv", "kernel").
LeafPath = tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """A match between the tensors of a file and the variables of an encoder.

    Attributes:
        encoder: a key of `ENCODERS`.
        layout: the layout that fits best, a key of the encoder's `layouts`; None if the encoder
            has no layout for files of that kind.
        names: maps the leaves of the encoder's variables to the names of tensors.
        missing: tensors that the encoder needs but the file does not have.
        left_over: tensors of the file that the encoder does not need.
        mismatched: tensors of the wrong shape, with both shapes.
    """

    encoder: str
    layout: str | None
    names: dict[LeafPath, str]
    missing: list[str]
    left_over: list[str]
    mismatched: list[str]

    @property
    def is_exact(self) -> bool:
        """Whether every tensor is used and every parameter filled."""
        problems = self.missing or self.left_over or self.mismatched
        return self.layout is not None and not problems

    @property
    def likeness(self) -> float:
        """The share of tensors on which file and encoder agree, 0 to 1 (Dice's coefficient).

        A tensor with the right name but the wrong shape counts half.
        """
        in_both = len(self.names) - len(self.missing)
        agreeing = in_both - len(self.mismatched) / 2
        return 2 * agreeing / max(1, len(self.names) + in_both + len(self.left_over))


def fit(file: WeightFile, encoder: str, variables: Mapping[str, Any]) -> Fit:
    """Return the best fit of a file to an encoder over all layouts of the encoder.

    Args:
        variables: `{"params": …, "batch_stats": …}`, arrays or `jax.ShapeDtypeStruct`s.
    """
    shapes = _shapes(variables)
    fits = [
        _fit(file, encoder, layout, published_names(shapes, name_of, file.naming), shapes)
        for layout, name_of in encoder_spec(encoder).layouts.items()
        if (layout == "keras") == (file.naming != "torch")
    ]
    nothing = Fit(encoder, None, {}, [], list(file.tensors), [])
    return max(fits, key=lambda fit: fit.likeness, default=nothing)


def identify(file: WeightFile) -> list[Fit]:
    """Return the fits of a file to the encoders with published weights, best first.

    The search stops at an exact fit, because no two encoders share all names and shapes. It
    skips the rest of a family once one member shares no name with the file.
    """
    fits: list[Fit] = []
    foreign = set()
    for name, spec in ENCODERS.items():
        family = (getattr(spec.build, "func", spec.build), *spec.layouts)
        if not spec.layouts or family in foreign:
            continue
        fits.append(fit(file, name, encoder_shapes(name)))
        if fits[-1].is_exact:
            break
        if fits[-1].likeness == 0:
            foreign.add(family)
    return sorted(fits, key=lambda fit: (not fit.is_exact, -fit.likeness))


@functools.cache
def encoder_shapes(name: str) -> dict[str, Any]:
    """Return an encoder's variables as `jax.ShapeDtypeStruct`s, without initialising it."""
    spec = encoder_spec(name)
    images = jax.ShapeDtypeStruct((1, spec.input_size, spec.input_size, 3), jnp.float32)
    init = functools.partial(spec.build().init, train=False)
    return dict(jax.eval_shape(init, jax.random.key(0), images))


def published_names(
    leaves: Mapping[LeafPath, object], name_of: NameOf, naming: Naming
) -> dict[LeafPath, str]:
    """Return the name that each leaf of an encoder's variables has in a published file."""
    if naming == "torch":
        return {path: f"{name_of(path[1:-1])}.{_TORCH_LEAVES[path[-1]]}" for path in leaves}
    layers = {path: name_of(path[1:-1]) for path in leaves}
    if naming == "keras order":
        in_order = names_in_order(set(layers.values()))
        layers = {path: in_order.get(layer, layer) for path, layer in layers.items()}
    names = {}
    for path, layer in layers.items():
        is_norm = (*path[:-1], "kernel") not in leaves
        leaf = "beta" if is_norm and path[-1] == "bias" else _KERAS_LEAVES[path[-1]]
        names[path] = f"{layer}/{leaf}"
    return names


def from_published(value: np.ndarray, naming: Naming) -> np.ndarray:
    """Transpose a published tensor to the axes of our variables."""
    # [out, in, height, width] to [height, width, in, out]
    return value.transpose(2, 3, 1, 0) if naming == "torch" and value.ndim == 4 else value


def to_published(value: np.ndarray, naming: Naming) -> np.ndarray:
    """Transpose a leaf of our variables to published axes: the inverse of `from_published`."""
    return value.transpose(3, 2, 0, 1) if naming == "torch" and value.ndim == 4 else value


def leaf_path(key_path: Sequence[Any]) -> LeafPath:
    """Return the path of a leaf as names, from the keys of `jax.tree_util`."""
    return tuple(str(key.key) for key in key_path)


def _shapes(variables: Mapping[str, Any]) -> dict[LeafPath, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(dict(variables))
    return {leaf_path(key_path): tuple(leaf.shape) for key_path, leaf in leaves}


def _fit(
    file: WeightFile,
    encoder: str,
    layout: str,
    names: dict[LeafPath, str],
    shapes: Mapping[LeafPath, tuple[int, ...]],
) -> Fit:
    missing, mismatched = [], []
    left_over = dict.fromkeys(file.tensors)
    for path, name in names.items():
        if name not in file.tensors:
            missing.append(name)
            continue
        left_over.pop(name, None)
        found = from_published(file.tensors[name], file.naming).shape
        if found != shapes[path]:
            mismatched.append(f"{name}: {found}, expected {shapes[path]}")
    return Fit(encoder, layout, names, missing, list(left_over), mismatched)
