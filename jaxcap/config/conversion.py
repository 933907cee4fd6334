"""A configuration as JSON types and back, names and types checked."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, Literal, TypeVar

from jaxcap.config.sections import Config
from jaxcap.errors import InputError, did_you_mean

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested dictionaries of JSON types."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return result


def from_dict(cls: type[T], values: Any, *, where: str) -> T:
    """Builds a configuration dataclass from JSON values, checking names and types.

    Args:
      cls: the dataclass, whose fields may be dataclasses themselves.
      values: nested dictionaries; absent fields take their defaults.
      where: the file or option named in errors.

    Raises:
      InputError: a field that does not exist (the nearest is suggested), or a wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected a table of options, found {values!r}.")
    hints = typing.get_type_hints(cls)
    known: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise InputError(
                f"{where}: there is no option '{name}'.{did_you_mean(name, hints)} "
                f"Known: {', '.join(hints)}."
            )
        known[name] = _typed(hints[name], value, where=f"{where}.{name}")
    return cls(**known)


def _typed(hint: Any, value: Any, *, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where=where)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (h for h in arguments if h is not type(None))
        return _typed(hint, value, where=where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(
                f"{where} is {value!r}; it must be one of {', '.join(map(repr, arguments))}."
                f"{did_you_mean(str(value), arguments)}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} is {value!r}; expected a list of {arguments[0].__name__}.")
        return tuple(_typed(arguments[0], v, where=f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where} is {value!r}; expected a table of options.")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(
            f"{where} is {value!r} ({type(value).__name__}); expected {hint.__name__}."
        )
    return value


# Where data, features and the model of the pieces lie, whether features are computed anew, when
# checkpoints are saved, what is shown and when training gives up may change in between.
_SAME_EXPERIMENT = (
    "data.data_dir",
    "data.pieces_model",
    "encoder.cache_dir",
    "encoder.cache_features",
    "train.tensorboard",
    "train.save_every",
    "train.save_minutes",
    "train.patience",
    "train.parallel",
    "train.device",
    "train.coordinator",
    "train.processes",
    "train.process_id",
    "train.coordinator_timeout",
)


def differences(found: Config, expected: Config) -> list[str]:
    """Lines `option: found, expected` for every field that differs, but for `_SAME_EXPERIMENT`."""
    lines = []
    for section, values in to_dict(found).items():
        if section == "stages":
            if found.stages != expected.stages:
                lines.append(f"stages: {found.stages!r}, expected {expected.stages!r}")
            continue
        for name, value in values.items():
            other = to_dict(expected)[section][name]
            if value != other and f"{section}.{name}" not in _SAME_EXPERIMENT:
                lines.append(f"{section}.{name}: {value!r}, expected {other!r}")
    return lines
