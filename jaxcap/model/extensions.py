"""Decoders and encoders from a user's own module, named `module:Object` in a configuration.

A name in the `config.json` of a run may come from a stranger, and importing a module executes it.
So a module is imported only if the user asks for it: by importing it themselves, by naming it in
a configuration file or on the command line of `train.py`, or in $JAXCAP_MODULES.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from jaxcap.errors import InputError, did_you_mean

VARIABLE = "JAXCAP_MODULES"
"""Names of modules, separated by commas, that a `config.json` may have imported."""


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
        import_extension(name, option=option)
    module = sys.modules[module_name]
    if not hasattr(module, attribute):
        raise InputError(
            f"{option} is '{name}', but {module.__file__} defines no {attribute}."
            f"{did_you_mean(attribute, [x for x in vars(module) if not x.startswith('_')])}"
        )
    return getattr(module, attribute)


def import_extension(name: str, *, option: str) -> None:
    """Import the module of a `module:Object` that the user named; do nothing for other names.

    Raises:
      InputError: the module cannot be imported.
    """
    if not is_extension(name):
        return
    module_name = name.partition(":")[0]
    try:
        importlib.import_module(module_name)
    except Exception as error:  # the module is the user's, and may fail in any way
        raise InputError(
            f"{option} is '{name}', but importing {module_name} failed"
            f" ({type(error).__name__}: {error}). Put its folder on PYTHONPATH, or install it."
        ) from error
