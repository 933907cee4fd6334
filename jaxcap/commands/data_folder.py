"""Choose the folder of prepared data sets for a command that opens a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from jaxcap.config import DataConfig
from jaxcap.messages.errors import InputError


def choose_data_dir(given: Path | None, data: DataConfig, *, run: Path) -> Path:
    """Return the folder that the user named, or else the user's default folder.

    A run may come from a stranger, so a folder that only its `config.json` names is not opened.

    Args:
      given: the user's `--data-dir`.
      data: the data section of the run's configuration.
      run: the run, for the message.

    Raises:
      InputError: the configuration names a folder that is not the default one, and none was given.
    """
    from jaxcap.datasets.prepare import default_data_dir

    if given is not None:
        return given
    default = default_data_dir()
    if data.directory is not None and data.directory.resolve() != default.resolve():
        raise InputError(
            f"{run}: its configuration names the data folder {data.directory}. A run may come from "
            "a stranger, so jaxcap opens this folder only if you name it. If you trust it, give "
            f"--data-dir {shlex.quote(str(data.directory))}."
        )
    return default
