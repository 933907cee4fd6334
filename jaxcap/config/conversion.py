"""Convert a configuration to JSON types, and compare two of them."""

from __future__ import annotations

import dataclasses
import json
from itertools import zip_longest
from typing import Any

from jaxcap.config.options import Operational, options_of
from jaxcap.config.schema import Config

_LONG = 20
"""Elements of a list that a message shows as a whole."""


def to_dict(config: Any) -> dict[str, Any]:
    """Return the configuration as nested dictionaries of JSON types."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return result


def differences(found: Config, expected: Config) -> list[str]:
    """Return a line `option: found, expected` for every field that differs.

    Fields that are declared `Operational` are left out. Of a long list, only the first element that
    differs is named.
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
                if isinstance(value, tuple) and max(len(value), len(other)) > _LONG:
                    pairs = enumerate(zip_longest(value, other))
                    at, value, other = next((i, a, b) for i, (a, b) in pairs if a != b)
                    name = f"{name}[{at}]"
                lines.append(f"{section.name}.{name}: {value!r}, expected {other!r}")
    return lines
