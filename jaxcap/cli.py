"""The `jaxcap` command.

It parses arguments, calls a command of `jaxcap.commands` and turns errors into messages. A user's
mistake ends with one message on standard error and status 2; a partial failure with status 1.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

import jaxcap
from jaxcap.commands import (
    caption,
    configs,
    data,
    evaluate,
    export,
    finetune,
    parsing,
    prepare,
    replay,
    score,
    train,
    weights,
)
from jaxcap.config.local_paths import local_arguments
from jaxcap.errors import InputError, did_you_mean
from jaxcap.progress import PlainConsole

_COMMANDS: dict[str, tuple[type, Callable[[Any, Console], int]]] = {
    "prepare": (prepare.PrepareArguments, prepare.run),
    "data": (data.DataArguments, data.run),
    "configs": (configs.ConfigsArguments, configs.run),
    "train": (train.TrainArguments, train.run),
    "finetune": (finetune.FinetuneArguments, finetune.run),
    "evaluate": (evaluate.EvaluateArguments, evaluate.run),
    "caption": (caption.CaptionArguments, caption.run),
    "score": (score.ScoreArguments, score.run),
    "export": (export.ExportArguments, export.run),
    "replay": (replay.ReplayArguments, replay.run),
    "weights": (weights.WeightsArguments, weights.run),
}


_PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "train": train.parse,
    "finetune": finetune.parse,
}
"""Parsers of the commands with defaults that depend on other arguments."""


def main(*command: str) -> None:
    """Entry point of the `jaxcap` command.

    Args:
      command: arguments before those of the command line.
    """
    # Messages show the command to repeat, however it was called.
    sys.argv = ["jaxcap", *command, *sys.argv[1:]]

    def parse_and_run(console: Console) -> int:
        given = local_arguments(sys.argv[1:])
        if given == ["--version"]:
            print(f"jaxcap {jaxcap.__version__}")
            return 0
        if not given:
            console.print(describe_commands())
            return 2
        if given[0] in ("-h", "--help"):
            print(describe_commands())
            return 0
        name, *rest = given
        if name not in _COMMANDS:
            raise InputError(
                f"unknown command '{name}'.{did_you_mean(name, _COMMANDS)} "
                f"Commands: {', '.join(_COMMANDS)}."
            )
        arguments, run = _COMMANDS[name]
        if name in _PARSERS:
            return run(_PARSERS[name](rest), console)
        if name == "caption":
            rest = caption.paths_last(rest)
        return run(parsing.parse(arguments, f"jaxcap {name}", rest), console)

    _run(parse_and_run)


def describe_commands() -> str:
    """List the commands, each with the first line of its description."""
    lines = [
        f"  {name:10}{(arguments.__doc__ or '').partition(chr(10))[0]}"
        for name, (arguments, _) in _COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: jaxcap COMMAND …",
            "",
            "Image captioning in JAX: a convolutional encoder and an LSTM decoder.",
            "",
            *lines,
            "",
            "jaxcap COMMAND --help describes a command; jaxcap --version prints the version.",
        ]
    )


def _run(command: Callable[[Console], int]) -> None:
    """Run a command and exit with its status; messages go to standard error."""
    console = PlainConsole(stderr=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names must be printable in any locale; `\udcff` is also valid in JSON.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        status = command(console)
    except InputError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        status = 2
    except KeyboardInterrupt:
        console.print("interrupted", style="red")
        status = 130
    except BrokenPipeError:  # the reader of our output has exited
        _abandon_stdout()
        status = 1
    except OSError as error:
        if error.errno not in _ENVIRONMENT:
            raise
        _abandon_stdout()
        console.print(f"error: {error}", style="red", soft_wrap=True)
        status = 2
    sys.exit(status)


_ENVIRONMENT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Full disks and missing permissions, which the user can fix wherever they occur."""


def _abandon_stdout() -> None:
    """Redirect standard output to nowhere, or Python would fail again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
