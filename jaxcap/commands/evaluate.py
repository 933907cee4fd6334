"""`evaluate.py`: captions and scores a split."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from jaxcap.commands import given, print_scores
from jaxcap.errors import InputError


@dataclass(frozen=True)
class EvaluateArguments:
    """Captions every image of a split, scores the captions and writes a report.

    Several processes, found as train.py finds them or named by JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, share the images.
    """

    run: tyro.conf.Positional[Path]
    """Directory of a run, as train.py left it, or a published model."""
    split: str = "dev"
    data_dir: Path | None = None
    """Where prepared data sets lie, if not where they lay in training."""
    beam_size: int | None = None
    length_penalty: float | None = None
    output: Path | None = None
    """Folder for captions, scores and report; default: the run's. A published model has none."""
    latest: bool = False
    """Use the latest checkpoint instead of the best."""


def run(arguments: EvaluateArguments, console: Console) -> int:
    """Leaves captions, scores and a report in the directory of the run."""
    from jaxcap.captioning.loaded_model import load
    from jaxcap.datasets.prepare import load_source
    from jaxcap.devices import hosts
    from jaxcap.devices.parallel import on_local_devices, over_local_devices
    from jaxcap.evaluation import evaluate_source, write_evaluation
    from jaxcap.progress import Display

    hosts.connect()
    if not hosts.is_first():
        console = Console(quiet=True)
    with hosts.all_succeed():
        directory = _directory(arguments)
        captioner = load(arguments.run, best=not arguments.latest)
        captioner = captioner.with_search(
            **given(beam_size=arguments.beam_size, length_penalty=arguments.length_penalty)
        )
        if hosts.is_first() and not (directory.is_dir() and os.access(directory, os.W_OK)):
            raise InputError(
                f"{directory}: the results would lie there, but it is no folder that can be "
                "written to. Give --output, a folder where you may write."
            )
        data = captioner.config.data
        source = load_source(data.name, arguments.split, arguments.data_dir or data.directory)
    with (
        hosts.ending_with_others(),
        Display(console, f"captioning {arguments.split}", total=len(source)) as display,
    ):
        evaluation = evaluate_source(
            source,
            decode=over_local_devices(captioner.decode),
            variables=on_local_devices(captioner.variables),
            vocabulary=captioner.vocabulary,
            config=captioner.config,
            report=display.update,
            attention=True,
        )
    command = "python evaluate.py " + shlex.join(sys.argv[1:])
    with hosts.all_succeed():  # the others wait until all is written
        if hosts.is_first():
            paths = write_evaluation(
                evaluation,
                source,
                captioner,
                split=arguments.split,
                command=command,
                directory=directory,
            )
            print_scores(console, evaluation.corpus, f"{arguments.run} on {arguments.split}")
            for path in paths:
                console.print(f"wrote {path}", soft_wrap=True)
    return 0


def _directory(arguments: EvaluateArguments) -> Path:
    """Where the results go; it exists."""
    from jaxcap.storage.published import is_published

    if arguments.output is None:
        if is_published(arguments.run):
            raise InputError(f"{arguments.run}: where do the results go? Give --output DIR.")
        return arguments.run
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {arguments.output}: {error.strerror}.") from None
    return arguments.output
