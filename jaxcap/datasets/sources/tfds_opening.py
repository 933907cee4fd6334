"""Open a directory that TFDS wrote without running any code that it names.

`features.json` names a Python class for each feature, and TFDS imports the module of any class that
it does not know. A directory from a stranger could therefore run a program. Only TFDS's own feature
classes are accepted here, and no other module calls `builder_from_directory`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from jaxcap.files import read_bytes
from jaxcap.files.json_data import MAX_BYTES, parse_json
from jaxcap.messages.errors import InputError

_CLASS_KEYS = ("type", "pythonClassName", "python_class_name")
"""Keys of a class name: of TFDS before 4.5, and the two spellings that protobuf accepts."""

_DESCRIPTIONS = (".json", ".txt")
"""Suffixes of the files that TFDS reads as a whole: descriptions, and names of labels."""

_MAX_FILES = 100_000
"""Files of a split; TFDS takes seconds to name more."""


def open_directory(directory: Path) -> tfds.core.DatasetBuilder:
    """Return the read-only builder of a prepared data set.

    Args:
      directory: the directory of one version, which holds `features.json`.

    Raises:
      InputError: TFDS cannot read the directory, or it names a class that is not TFDS's own.
    """
    features = directory / "features.json"
    try:
        if not features.is_file():
            raise FileNotFoundError(f"it has no {features.name}")
        _check_files(directory)
        _check_classes(features)
        builder = tfds.builder_from_directory(directory)
        builder.info.metadata  # noqa: B018  (read lazily: damage to it is reported here)
        for name, split in builder.info.splits.items():
            if split.num_shards > _MAX_FILES:
                raise InputError(
                    f"{directory}: the split '{name}' claims {split.num_shards:,} files; "
                    f"expected at most {_MAX_FILES:,}"
                )
        return builder
    except InputError:
        raise
    except Exception as error:  # TFDS, json and protobuf raise a dozen types
        raise InputError(
            f"{directory}: not a prepared TFDS data set, or a damaged one. Prepare it again, or "
            f"copy it again ({error})"
        ) from error


def _check_files(directory: Path) -> None:
    """Refuse pipes and devices, which TFDS would wait for or read without end."""
    for path in directory.iterdir():
        if not (path.is_dir() or path.is_file()):
            raise InputError(f"{path}: not a regular file, but a pipe, a device or a broken link")
        if path.suffix in _DESCRIPTIONS and (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(f"{path}: the file has {size:,} bytes; expected at most {MAX_BYTES:,}")


def _check_classes(path: Path) -> None:
    known = _known_classes()
    for name in _class_names(parse_json(read_bytes(path, at_most=MAX_BYTES).decode())):
        if name not in known:
            raise InputError(
                f"{path}: names the Python class {name[:100]!r}, which TFDS would import and run; "
                "expected only classes of tensorflow_datasets.core.features. Write the data set "
                "with the features of tfds.features, or get it from a source that you trust"
            )


def _known_classes() -> set[str]:
    """Return the stored names of TFDS's own feature classes, which are already imported."""
    base = tfds.features.FeatureConnector
    classes: list[Any] = [c for c in vars(tfds.features).values() if isinstance(c, type)]
    features = [c for c in classes if issubclass(c, base)]
    return {f"{c.__module__}.{c.__name__}" for c in features}.union(*(c.ALIASES for c in features))


def _class_names(value: Any) -> Iterator[str]:
    """Yield class names at any depth, including JSON inside strings (`JsonFeature.json`)."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from (value[key] for key in _CLASS_KEYS if isinstance(value.get(key), str))
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, str) and value.lstrip().startswith(("{", "[")):
            try:
                pending.append(parse_json(value))
            except json.JSONDecodeError:
                continue  # plain text; TFDS cannot parse it either
