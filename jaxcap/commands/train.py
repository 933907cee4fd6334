"""`jaxcap train`: train the captioner of a configuration."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from jaxcap.commands import parsing
from jaxcap.config import Config, Stage, find_config_file, load_config_file
from jaxcap.config.extensions import import_extensions
from jaxcap.messages.errors import InputError

if TYPE_CHECKING:
    from jaxcap.training import Interrupted


@dataclass(frozen=True)
class TrainArguments:
    """Train the captioner of a configuration, or resume a run.

    jaxcap configs lists the configurations that come with jaxcap.

        jaxcap train flickr8k
        jaxcap train mine.py --workdir runs/wide --decoder.hidden-size 1024
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    workdir: Path = Path("runs/NAME")
    """Directory of the run."""


def parse(argv: list[str]) -> TrainArguments:
    """Parse the arguments of `jaxcap train`; defaults come from the configuration named first.

    Raises:
      InputError: the first argument is not a configuration, or is invalid; or a stage would
        override an option.
    """
    if argv[:1] in (["-h"], ["--help"]):
        return parse_options("train CONFIG", ["--help"], TrainArguments(Config()))
    if not argv or argv[0].startswith("-"):
        raise InputError(
            "The first argument must be a configuration. usage: jaxcap train CONFIG "
            "[--workdir DIR] [--any.option VALUE …]; CONFIG is a file or a name of jaxcap configs; "
            "--help lists the options."
        )
    name, *options = argv
    path = find_config_file(name)
    default = TrainArguments(load_config_file(path), workdir=Path("runs") / path.stem)
    arguments = parse_options(f"train {name}", options, default)
    _check_stages(default.config.stages, options, name)
    import_extensions(arguments.config, folder=path.parent)
    return arguments


def parse_options(program: str, options: list[str], default: TrainArguments) -> TrainArguments:
    """Parse the training options, each `--section.option VALUE`."""
    return parsing.parse(TrainArguments, f"jaxcap {program}", options, default=default)


def _check_stages(stages: Sequence[Stage], options: Sequence[str], name: str) -> None:
    """Refuse options of the command line that a stage would override."""
    for flag in (option.partition("=")[0] for option in options):
        section, _, option = flag.removeprefix("--").replace("-", "_").partition(".")
        option = option.removeprefix("no_")
        overriding = {
            f"stages[{i}]": own[section][option]
            for i, own in enumerate(map(_stage_options, stages))
            if option in own.get(section, {})
        }
        if overriding:
            found = ", ".join(
                f"{stage} sets it to {value!r}" for stage, value in overriding.items()
            )
            file = name if name.endswith(".py") else "mine.py"
            copy = "" if file == name else f"jaxcap configs {name} > {file}, then "
            raise InputError(
                f"{flag}: the stages of {name} override {section}.{option}: {found}. Change it "
                f"there: {copy}edit the stages in {file}, then jaxcap train {file}."
            )


def _stage_options(stage: Stage) -> dict[str, dict[str, Any]]:
    return {
        "train": stage.train | {"epochs": stage.epochs},
        "encoder": stage.encoder,
        "data": stage.data,
    }


def run(arguments: TrainArguments, console: Console) -> int:
    """Train to the end and print the scores; after a signal, print how to resume."""
    from jaxcap.commands.evaluate import print_scores
    from jaxcap.devices import hosts
    from jaxcap.storage.program_cache import keep_compiled_programs
    from jaxcap.training import Interrupted, train

    keep_compiled_programs()
    try:
        summary = train(arguments.config, arguments.workdir, console=console)
    except Interrupted as interrupted:
        return tell_interrupted(interrupted, console)
    if not hosts.is_first():
        return 0
    print_scores(console, summary.scores, f"best checkpoint, step {summary.best_step}")
    console.print(f"Trained for {summary.seconds / 60:.1f} minutes. Next:")
    print_next(arguments, arguments.config.evaluation.split, console)
    return 0


def print_next(arguments: TrainArguments, split: str, console: Console) -> None:
    """Print the commands that score a split with the run, and caption with it."""
    directory, data_dir = str(arguments.workdir), arguments.config.data.directory
    where = [] if data_dir is None else ["--data-dir", str(data_dir)]
    for command in (
        ["jaxcap", "evaluate", directory, "--split", split, *where],
        ["jaxcap", "caption", "PHOTO.jpg", "--model", directory],
    ):
        console.print(f"  {shlex.join(command)}", soft_wrap=True)


def tell_interrupted(interrupted: Interrupted, console: Console) -> int:
    """Print how to resume an interrupted run; return its exit status."""
    console.print(f"{interrupted} To resume, repeat the command:", soft_wrap=True, highlight=False)
    console.print(f"  {shlex.join(sys.argv)}", soft_wrap=True)
    return interrupted.status
