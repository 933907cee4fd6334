"""`jaxcap configs`: the configurations that come with jaxcap."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from jaxcap.config import find_config_file, shipped_configs
from jaxcap.messages.errors import InputError
from jaxcap.messages.progress import print_out


@dataclass(frozen=True)
class ConfigsArguments:
    """List the configurations that come with jaxcap, or print one.

    To change one, edit a copy: jaxcap configs flickr8k > mine.py. Then: jaxcap train mine.py.

        jaxcap configs
        jaxcap configs flickr8k > mine.py
    """

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[NAME]")] = None
    """The configuration to print; default: list all of them."""


def run(arguments: ConfigsArguments, console: Console) -> int:
    """Print the names, each with the first line of its file, or a whole file."""
    if arguments.name is not None:
        path = find_config_file(arguments.name)
        try:
            print_out(path.read_text(encoding="utf-8"), end="")
        except UnicodeDecodeError:
            raise InputError(f"{path}: this is not text in UTF-8.") from None
        return 0
    for name, path in shipped_configs().items():
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        print_out(f"{name}\t{about.partition(chr(10))[0]}")
    return 0
