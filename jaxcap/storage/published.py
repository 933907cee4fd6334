"""Captioners as they are published: one `.safetensors` file with all that captioning needs.

Its tensors are the parameters and batch statistics, by their paths in the model
(`params/decoder/output/kernel`); its header says in JSON which model they belong to: format
version, configuration, vocabulary, step, origin, and the SHA-256 of it all. No optimizer state,
nothing that could be run. One file and not a folder: it is replaced, copied and downloaded whole,
and weights cannot end up beside the vocabulary of another model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxcap
from jaxcap.config import Config, to_dict, validate
from jaxcap.files import hub
from jaxcap.files.json_data import from_dict, shown
from jaxcap.files.safetensors_files import (
    read_about,
    read_safetensors_file,
    write_safetensors_file,
)
from jaxcap.messages.errors import InputError, one_line, within
from jaxcap.model.captioner import create_captioner, variable_shapes
from jaxcap.storage.program_cache import Store, key_of
from jaxcap.storage.trained import TrainedCaptioner, check_finite, named
from jaxcap.text.vocabulary import Vocabulary

SUFFIX = ".safetensors"
FORMAT = 1
"""Version of the file format, raised when older readers would misread a file."""

Precision = Literal["float32", "bfloat16"]
"""The type that numbers are stored in, whatever the type of computation."""

_KIND = "captioner"
_CALIBRATION = "calibration/"
"""How the names of the tensors begin that do not belong to the model."""


@dataclasses.dataclass(frozen=True)
class _Header:
    """The content of the header, without its checksum.

    Attributes:
      origin: the run and the version of jaxcap that the captioner came from.
      note: a line for users, such as data and licence.
    """

    kind: str
    format: int
    config: Config
    vocabulary: Any
    step: int
    dtype: Precision
    origin: dict[str, str]
    note: str = ""


def stored(variables: dict[str, Any], dtype: Precision) -> dict[str, Any]:
    """Return variables as they are stored.

    bfloat16 halves matrices and convolution kernels. Biases, scales and batch statistics stay
    float32: these vectors are a hundredth of the numbers, and each number shifts or scales a whole
    channel.
    """

    def store(x: Any) -> np.ndarray:
        array = np.asarray(x)
        return array.astype(jnp.bfloat16) if dtype == "bfloat16" and array.ndim > 1 else array

    return jax.tree.map(store, variables)


def write(
    captioner: TrainedCaptioner,
    path: Path,
    *,
    dtype: Precision = "float32",
    note: str | None = None,
) -> None:
    """Publish a captioner as one file; the same captioner gives the same bytes.

    Args:
      path: the file to write. It is replaced as a whole or not at all.
      dtype: float32 keeps every bit; bfloat16 halves the file, see `stored`.
      note: a line for users, such as data and licence; by default `captioner.note`.

    Raises:
      InputError: the file cannot be written.
    """
    tensors = named(stored(captioner.variables, dtype))
    tensors |= {_CALIBRATION + name: x for name, x in captioner.calibration.items()}
    about = {
        "kind": _KIND,
        "format": FORMAT,
        "config": to_dict(_without_paths(captioner.config)),
        "vocabulary": captioner.vocabulary.to_json(),
        "step": captioner.step,
        "dtype": dtype,
        "origin": {"run": captioner.directory.name, "jaxcap": jaxcap.__version__},
    }
    if note := captioner.note if note is None else note:
        about["note"] = note
    about["sha256"] = _digest(about, tensors)
    try:
        write_safetensors_file(path, tensors, about)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def is_published(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a published captioner, as a file or on the Hub, and no run."""
    path = Path(path)
    is_named = path.suffix == SUFFIX and not path.is_dir()
    return path.is_file() or is_named or hub.is_reference(path)


def read(path: str | os.PathLike[str], *, store: Store | None = None) -> TrainedCaptioner:
    """Read a file that `write` wrote, and check every bit of it.

    Args:
      store: remembers the files whose tensors fit their configuration, because the check takes
        longer than reading.

    Raises:
      InputError: the file is missing, cut short or damaged, of a newer format, or something else;
        the message says which.
    """
    path = Path(path)
    about = _about(path)
    tensors = read_safetensors_file(path)
    digest = about.pop("sha256", None)
    if digest != _digest(about, tensors):
        raise InputError(
            f"{path}: damaged: its content does not match its SHA-256 checksum. Copy or download "
            "it again."
        )
    header = from_dict(_Header, about, where=f"{path}, header")
    with within(str(path)):
        config = validate(header.config)
    vocabulary = Vocabulary.from_json(header.vocabulary, where=f"{path}, vocabulary")
    calibration = {
        name.removeprefix(_CALIBRATION): tensors.pop(name)
        for name in sorted(tensors)
        if name.startswith(_CALIBRATION)
    }
    key = None if store is None else key_of("tensors that fit", digest)
    if store is None or key is None or store.get(key) is None:
        with within(str(path)):
            model = create_captioner(config, len(vocabulary), words=vocabulary.words)
        like = variable_shapes(model, image_size=config.data.image_size)
        _check_tensors(path, tensors, named(like))
        if store is not None and key is not None:
            store.put(key, b"")
    variables = _tree(tensors)
    check_finite({**variables, "calibration": calibration}, where=str(path))
    return TrainedCaptioner(
        path,
        config,
        vocabulary,
        jax.device_put(variables),
        header.step,
        header.note,
        calibration,
    )


def describe(path: Path) -> str | None:
    """Describe a published captioner by its header. Return None for any other file.

    Raises:
      InputError: the file is cut short or damaged.
    """
    about = read_about(path) if path.suffix == SUFFIX and path.is_file() else None
    if about is None or about.get("kind") != _KIND:
        return None
    config = from_dict(Config, about.get("config"), where=f"{path}, config")
    words = Vocabulary.from_json(about.get("vocabulary"), where=f"{path}, vocabulary").words
    lines = {
        "file": path,
        "is": f"a captioner of jaxcap: {config.encoder.name}, {config.decoder.name}",
        "has": f"{len(words):,} words, images of {config.data.image_size} pixels, step "
        f"{about.get('step')}, {about.get('dtype')}",
        "note": about.get("note"),
    }
    return "\n".join(one_line(f"{name + ':':5} {value}") for name, value in lines.items() if value)


def _tree(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Build float32 variables from the tensors by name."""
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, tensor in tensors.items():
        *parents, last = name.split("/")
        within = variables
        for parent in parents:
            within = within.setdefault(parent, {})
        with np.errstate(over="ignore"):  # infinity is found afterwards
            within[last] = tensor.astype(np.float32)
    return variables


def _about(path: Path) -> dict[str, Any]:
    """Return the header of a published file of a known format."""
    about = read_about(path)
    if about is None or about.get("kind") != _KIND:
        what = (
            f"the weights of encoder {shown(about['encoder'])}"
            if about is not None and "encoder" in about
            else "a .safetensors file of others"
        )
        raise InputError(
            f"{path}: {what}, not a published captioner. Expected the directory of a run, or a "
            "file written by 'jaxcap export RUN FILE.safetensors'."
        )
    if about.get("format") != FORMAT:
        raise InputError(
            f"{path}: a captioner in format {shown(about.get('format'))}; this jaxcap "
            f"({jaxcap.__version__}) reads format {FORMAT}. Install a newer jaxcap, or export the "
            "file again with this version."
        )
    return about


def _check_tensors(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "left over": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(found[name].shape)}, expected {list(expected[name].shape)}"
            for name in sorted(found.keys() & expected.keys())
            if found[name].shape != expected[name].shape
        ],
        "not of floating-point numbers": [
            f"{name} ({x.dtype})" for name, x in found.items() if not _is_floating(x)
        ],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{what}: {', '.join(names[:3])}"
            + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            for what, names in problems.items()
            if names
        )
        raise InputError(f"{path}: its tensors are not those of its configuration. {listed}.")


def _is_floating(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _digest(about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """Return the hexadecimal SHA-256 of the header as sorted JSON and of each tensor by name."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)  # a copy may not fit
    return digest.hexdigest()


def _without_paths(config: Config) -> Config:
    """Remove paths of the training machine, which mean nothing elsewhere."""

    def name_of(path: str | None) -> str | None:
        return None if path is None else Path(path).name

    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, data_dir=None, pieces_model=name_of(config.data.pieces_model)
        ),
        encoder=dataclasses.replace(
            config.encoder, cache_dir=None, weights=name_of(config.encoder.weights)
        ),
        train=dataclasses.replace(
            config.train, coordinator=None, start_from=name_of(config.train.start_from)
        ),
    )
