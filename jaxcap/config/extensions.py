"""Decoders and encoders from a user's own module, named `module:Object` in a configuration.

Importing a module executes it, and the `config.json` of a run may come from a stranger. So a
module is imported only for a user who names it: in a configuration file, on the command line of
`train.py`, in $JAXCAP_MODULES, or by an `import` of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxcap.config.schema import Config
from jaxcap.messages.errors import InputError, did_you_mean

VARIABLE = "JAXCAP_MODULES"
"""Environment variable: comma-separated modules that a `config.json` may import."""


def is_extension(name: str) -> bool:
    """Return whether `name` is a `module:Object` rather than a built-in name."""
    return ":" in name


def load_extension(name: str, *, option: str) -> Any:
    """Return the object that `module:Object` names.

    Args:
      option: the option that holds the name, for messages.

    Raises:
      InputError: the name is malformed, its module is neither imported nor listed in
        $JAXCAP_MODULES, it cannot be imported, or it has no such object.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise InputError(f"{option} is '{name}'; give it as module:Object, such as my_models:GRU.")
    if module_name not in sys.modules:
        allowed = [module.strip() for module in os.environ.get(VARIABLE, "").split(",")]
        if module_name not in allowed:
            raise InputError(
                f"{option} is '{name}', but the module {module_name} is not imported, and a model's"
                f" configuration may not import it by itself. If you trust it, set"
                f" {VARIABLE}={module_name}, or import {module_name} before you load the model."
            )
        _import(module_name, option=option, name=name)
    module = sys.modules[module_name]
    if not hasattr(module, attribute):
        raise InputError(
            f"{option} is '{name}', but {getattr(module, '__file__', None) or module_name} defines "
            f"no {attribute}."
            f"{did_you_mean(attribute, [x for x in vars(module) if not x.startswith('_')])}"
        )
    return getattr(module, attribute)


def source_digests(config: Config) -> tuple[str, ...]:
    """Return the SHA-256 of each imported extension's file, for the keys of caches."""
    files = [
        getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
        for name in (config.encoder.name, config.decoder.name)
        if is_extension(name)
    ]
    return tuple(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if file)


def import_extensions(config: Config, *, folder: Path) -> None:
    """Import the modules that the user named in `config`, from `folder` or the usual path.

    Raises:
      InputError: a module cannot be imported.
    """
    with importable(folder):
        for option, name in (
            ("encoder.name", config.encoder.name),
            ("decoder.name", config.decoder.name),
        ):
            if is_extension(name):
                _import(name.partition(":")[0], option=option, name=name)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Search `folder` first for imports inside the block."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _import(module_name: str, *, option: str, name: str) -> None:
    try:
        importlib.import_module(module_name)
    except Exception as error:  # the module is the user's, and may fail in any way
        raise InputError(
            f"{option} is '{name}', but importing {module_name} failed"
            f" ({type(error).__name__}: {error}). Put its folder on PYTHONPATH, or install it."
        ) from error
