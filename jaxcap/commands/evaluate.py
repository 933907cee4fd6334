"""`evaluate.py`: caption and score a split."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from jaxcap.commands import print_scores
from jaxcap.commands.data_folder import choose_data_dir
from jaxcap.commands.search_options import SearchGroup, SearchOptions, given_search
from jaxcap.errors import InputError


@dataclass(frozen=True)
class EvaluateArguments:
    """Caption every image of a split, score the captions and write a report.

    Several processes share the images. A launcher starts them as for train.py, or
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID connect them.
    """

    run: tyro.conf.Positional[Path]
    """Directory of a run, or a published model."""
    split: str = "dev"
    """The split to caption; dev[:100] is its first 100 images."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets. A
    folder that only the run's config.json names is not opened."""
    output: Path | None = None
    """Folder for captions, scores and report; default: the run's directory. A published model
    needs one."""
    latest: bool = False
    """Use the latest checkpoint instead of the best."""
    search: SearchGroup = field(default_factory=SearchOptions)


def run(arguments: EvaluateArguments, console: Console) -> int:
    """Write captions, scores and a report, and print the scores."""
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
        captioner = captioner.with_search(**given_search(arguments.search))
        if hosts.is_first() and not (directory.is_dir() and os.access(directory, os.W_OK)):
            raise InputError(
                f"{directory}: cannot write the results to this folder. Give --output, a folder "
                "with write permission."
            )
        data = captioner.config.data
        data_dir = choose_data_dir(arguments.data_dir, data, run=arguments.run)
        source = load_source(data.name, arguments.split, data_dir)
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
    with hosts.all_succeed():  # the other processes wait until everything is written
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
    """Return the folder of the results, created if `--output` names a new one."""
    from jaxcap.storage.published import is_published

    if arguments.output is None:
        if is_published(arguments.run):
            raise InputError(
                f"{arguments.run}: a published model has no folder for results. Give --output DIR."
            )
        return arguments.run
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {arguments.output}: {error.strerror}.") from None
    return arguments.output
