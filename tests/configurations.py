"""Change a few options of a configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxcap.config import Config


def changed(config: Config, **options: Any) -> Config:
    """Return `config` with options replaced, each given as `section__name=value`."""
    for option, value in options.items():
        section, name = option.split("__")
        part = dataclasses.replace(getattr(config, section), **{name: value})
        config = dataclasses.replace(config, **{section: part})
    return config
