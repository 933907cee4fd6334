"""`train.py`: trains what a configuration file describes."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from jaxcap.commands import print_scores
from jaxcap.config import Config, load_config_file
from jaxcap.errors import InputError

_USAGE = "usage: train.py CONFIG.py [--workdir DIR] [--any.option VALUE …]; --help lists them"


@dataclass(frozen=True)
class TrainArguments:
    """Trains the captioner of a configuration file, or goes on with an interrupted run."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    workdir: Path = Path("runs/NAME")
    """Directory of the run."""


def parse(argv: list[str]) -> TrainArguments:
    """The arguments of `train.py`, whose defaults are the values of the file named first.

    Raises:
      InputError: no configuration file is named first, or it is faulty.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise InputError(f"Which configuration? {_USAGE}")
    if argv[0] in ("-h", "--help"):
        program, options, default = "CONFIG.py", ["--help"], TrainArguments(Config())
    else:
        path = Path(argv[0])
        program, options = argv[0], argv[1:]
        default = TrainArguments(load_config_file(path), workdir=Path("runs") / path.stem)
    return tyro.cli(TrainArguments, prog=f"train.py {program}", args=options, default=default)


def run(arguments: TrainArguments, console: Console) -> int:
    """Trains to the end and says what came of it, or how to go on after a signal."""
    from jaxcap.devices import hosts
    from jaxcap.training import Interrupted, train

    try:
        summary = train(arguments.config, arguments.workdir, console=console)
    except Interrupted as interrupted:
        console.print(
            f"{interrupted} To go on, give the same command again:", soft_wrap=True, highlight=False
        )
        console.print(f"  python {shlex.join(sys.argv)}", soft_wrap=True)
        return interrupted.status
    if not hosts.is_first():
        return 0
    print_scores(console, summary.scores, f"best checkpoint, step {summary.best_step}")
    console.print(f"Trained for {summary.seconds / 60:.1f} minutes. Next:")
    directory = shlex.quote(str(arguments.workdir))
    split = shlex.quote(arguments.config.evaluation.split)
    console.print(f"  python evaluate.py {directory} --split {split}", soft_wrap=True)
    console.print(f"  jaxcap caption PHOTO.jpg --model {directory}", soft_wrap=True)
    return 0
