"""`train.py`: train the captioner of a configuration file."""

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
from jaxcap.config.extensions import import_extensions
from jaxcap.errors import InputError

_USAGE = "usage: train.py CONFIG.py [--workdir DIR] [--any.option VALUE …]; --help lists them"


@dataclass(frozen=True)
class TrainArguments:
    """Train the captioner of a configuration file, or resume an interrupted run."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    workdir: Path = Path("runs/NAME")
    """Directory of the run."""


def parse(argv: list[str]) -> TrainArguments:
    """Parse the arguments of `train.py`; defaults come from the configuration file named first.

    Raises:
      InputError: the first argument is not a configuration file, or the file is faulty.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise InputError(f"No configuration file is named first. {_USAGE}")
    if argv[0] in ("-h", "--help"):
        program, options, default = "CONFIG.py", ["--help"], TrainArguments(Config())
    else:
        path = Path(argv[0])
        program, options = argv[0], argv[1:]
        default = TrainArguments(load_config_file(path), workdir=Path("runs") / path.stem)
    arguments = tyro.cli(TrainArguments, prog=f"train.py {program}", args=options, default=default)
    import_extensions(arguments.config, folder=Path(argv[0]).parent)
    return arguments


def run(arguments: TrainArguments, console: Console) -> int:
    """Train to the end and print the scores; after a signal, print how to resume."""
    from jaxcap.devices import hosts
    from jaxcap.training import Interrupted, train

    try:
        summary = train(arguments.config, arguments.workdir, console=console)
    except Interrupted as interrupted:
        console.print(
            f"{interrupted} To resume, repeat the command:", soft_wrap=True, highlight=False
        )
        console.print(f"  python {shlex.join(sys.argv)}", soft_wrap=True)
        return interrupted.status
    if not hosts.is_first():
        return 0
    print_scores(console, summary.scores, f"best checkpoint, step {summary.best_step}")
    console.print(f"Trained for {summary.seconds / 60:.1f} minutes. Next:")
    directory = shlex.quote(str(arguments.workdir))
    split = shlex.quote(arguments.config.evaluation.split)
    data_dir = arguments.config.data.directory
    where = "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"
    console.print(f"  python evaluate.py {directory} --split {split}{where}", soft_wrap=True)
    console.print(f"  jaxcap caption PHOTO.jpg --model {directory}", soft_wrap=True)
    return 0
