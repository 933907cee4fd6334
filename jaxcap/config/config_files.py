"""Find, read and write configurations: `configs/NAME.py`, and `config.json` of a run."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import traceback
from pathlib import Path

from jaxcap.config.checks import validate
from jaxcap.config.conversion import to_dict
from jaxcap.config.extensions import importable
from jaxcap.config.schema import (
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    EvaluationConfig,
    SearchConfig,
    Stage,
    TrainConfig,
)
from jaxcap.files import write_text
from jaxcap.files.json_data import from_dict, read_json
from jaxcap.messages.errors import InputError, did_you_mean, within


def shipped_configs() -> dict[str, Path]:
    """Return the configuration files that come with jaxcap, by name."""
    package = Path(__file__).parents[1]
    # An installed package contains the folder; in a checkout it is next to the package.
    folders = package / "configs", package.with_name("configs")
    folder = next((each for each in folders if each.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def find_config_file(name: str | Path) -> Path:
    """Return the configuration file that a user named.

    Only files that end in .py are taken for one. Python would also run the `config.json` of a run,
    which is data, and the ZIP archive at the end of any file, such as an image.

    Args:
      name: the path of a file, or the name of a configuration that comes with jaxcap.

    Raises:
      InputError: nothing has this name, or the file's name does not end in .py.
    """
    path, shipped = Path(name), shipped_configs()
    if path.suffix == ".py" and path.is_file():
        return path
    if str(name) in shipped:
        return shipped[str(name)]
    if path.is_file():
        raise InputError(
            f"{name}: not a configuration. A configuration is a Python program, and its name ends "
            "in .py."
        )
    near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.py")] + [*shipped])
    raise InputError(
        f"{name}: no such configuration file.{near} Give a path, or the name of a configuration "
        f"that comes with jaxcap: {', '.join(shipped)}. "
        "To adapt a model to a data set: jaxcap finetune --data NAME."
    )


def load_config_file(name: str | Path) -> Config:
    """Run a file of `configs/` and return its `CONFIG`; see `find_config_file`.

    The file's folder is importable while it runs. Such a file is a program: run only those that you
    trust. `config.json` is data.

    Raises:
      InputError: the file does not exist, fails, or defines no valid `CONFIG`.
    """
    path = find_config_file(name)
    try:
        with importable(path.parent):
            config = runpy.run_path(str(path)).get("CONFIG")
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}.") from error
    except Exception as error:  # any error in the user's own file is the user's to fix
        raise InputError(f"{path}{_line_in(path, error)}: {_unknown_option(error)}") from error
    if not isinstance(config, Config):
        raise InputError(f"{path}: it must define CONFIG = jaxcap.config.Config(...).")
    with within(str(path)):
        return validate(config)


def _line_in(path: Path, error: Exception) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _unknown_option(error: Exception) -> str:
    """Return the error as text; for an unknown option, with the options of its section."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    options = next((c for c in _SECTIONS if match and c.__name__ == match[1]), None)
    if match is None or options is None:
        return f"{type(error).__name__}: {error}"
    known = [f.name for f in dataclasses.fields(options)]
    return (
        f"{match[1]} has no option '{match[2]}'.{did_you_mean(match[2], known)} "
        f"Known: {', '.join(known)}."
    )


_SECTIONS = (
    Config,
    DataConfig,
    EncoderConfig,
    DecoderConfig,
    TrainConfig,
    SearchConfig,
    EvaluationConfig,
    Stage,
)


def save_config(config: Config, path: Path) -> None:
    """Write the whole configuration as JSON."""
    write_text(path, json.dumps(to_dict(config), indent=2) + "\n")


def load_config(path: Path) -> Config:
    """Read a configuration that `save_config` wrote.

    Raises:
      InputError: the file is missing, damaged or no valid configuration.
    """
    values = read_json(path, "configuration")
    config = from_dict(Config, values, where=str(path))
    with within(str(path)):
        return validate(config)
