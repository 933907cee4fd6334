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

import tyro
from rich.console import Console

import jaxcap
from jaxcap.commands import (
    caption,
    configs,
    data,
    evaluate,
    export,
    finetune,
    prepare,
    replay,
    score,
    train,
    weights,
)
from jaxcap.config.local_paths import local_arguments
from jaxcap.errors import InputError
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
        if given and given[0] in _PARSERS:
            _, run = _COMMANDS[given[0]]
            return run(_PARSERS[given[0]](given[1:]), console)
        if given[:1] == ["caption"]:
            given[1:] = caption.paths_last(given[1:])
        arguments = tyro.extras.subcommand_cli_from_dict(
            {name: arguments for name, (arguments, _) in _COMMANDS.items()},
            args=given,
            prog="jaxcap",
            description="CNN-LSTM image captioning in JAX. --version prints the version.",
        )
        run = next(run for cls, run in _COMMANDS.values() if isinstance(arguments, cls))
        return run(arguments, console)

    _run(parse_and_run)


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
