"""Convert a configuration to JSON types and back, checking names and types."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, Literal, TypeVar

from jaxcap.config.options import Operational, options_of
from jaxcap.config.schema import Config
from jaxcap.errors import InputError, did_you_mean

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Return the configuration as nested dictionaries of JSON types."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return result


def from_dict(cls: type[T], values: Any, *, where: str) -> T:
    """Build a configuration dataclass from JSON values, checking names and types.

    Args:
      cls: the dataclass; its fields may be dataclasses too.
      values: nested dictionaries; absent fields take their defaults.
      where: the file or option named in errors.

    Raises:
      InputError: an unknown field (with the nearest known name), or a wrong type.
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


def differences(found: Config, expected: Config) -> list[str]:
    """Return a line `option: found, expected` for every field that differs.

    Fields that are declared `Operational` are left out.
    """
    lines = []
    for section in dataclasses.fields(Config):
        ours, theirs = getattr(found, section.name), getattr(expected, section.name)
        if section.name == "stages":
            if ours != theirs:
                lines.append(f"stages: {ours!r}, expected {theirs!r}")
            continue
        for name, option in options_of(type(ours)).items():
            value, other = getattr(ours, name), getattr(theirs, name)
            if value != other and Operational not in option.markers:
                lines.append(f"{section.name}.{name}: {value!r}, expected {other!r}")
    return lines
