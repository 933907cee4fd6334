"""`jaxcap evaluate`: caption and score a split."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from jaxcap.commands.data_folder import choose_data_dir
from jaxcap.commands.search_options import SearchGroup, SearchOptions, given_search
from jaxcap.messages.errors import InputError
from jaxcap.storage.packaged import model_name, packaged

if TYPE_CHECKING:
    from jaxcap.captioning.loaded_model import LoadedModel
    from jaxcap.data.pipeline import Source
    from jaxcap.evaluation import Evaluation


@dataclass(frozen=True)
class EvaluateArguments:
    """Caption the images of a split, score the captions, write a report.

    Several processes share the images. A launcher starts them as for training, or
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID connect them.

        jaxcap evaluate runs/NAME --split dev
        jaxcap evaluate --data mine --split test
    """

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """Directory of a run, or a published model; default: the model in the package."""
    model: Path | None = None
    """The same as RUN, for consistency with other commands."""
    data: str | None = None
    """A data set built by jaxcap prepare; default: the one that the model was trained on."""
    split: str = "dev"
    """The split to caption; dev[:100] is its first 100 images."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets. A
    folder that only the run's config.json names is not opened."""
    output: Path | None = None
    """Folder for captions, scores and report; default: the run's directory, or
    evaluations/NAME for a published model."""
    latest: bool = False
    """Use the latest checkpoint instead of the best."""
    search: SearchGroup = field(default_factory=SearchOptions)


def run(arguments: EvaluateArguments, console: Console) -> int:
    """Write captions, scores and a report, and print the scores."""
    from jaxcap.captioning.loaded_model import load
    from jaxcap.datasets.prepare import load_source
    from jaxcap.devices import hosts
    from jaxcap.evaluation import result_files, write_evaluation

    hosts.connect()
    if not hosts.is_first():
        console = Console(quiet=True)
    with hosts.all_succeed():
        path = _model(arguments)
        captioner = load(path, best=not arguments.latest)
        captioner = captioner.with_search(**given_search(arguments.search))
        data, data_dir = arguments.data, arguments.data_dir
        if data is None:
            data_dir = choose_data_dir(data_dir, captioner.config.data, run=path)
            data = captioner.config.data.name
        source = load_source(data, arguments.split, data_dir)
        directory = _directory(path, arguments.output)
        if hosts.is_first():
            if not (directory.is_dir() and os.access(directory, os.W_OK)):
                raise InputError(
                    f"{directory}: cannot write the results to this folder. Give a writable folder "
                    "with --output."
                )
            result_files(directory, captioner, data, arguments.split)
    evaluation = evaluate_split(captioner, source, arguments.split, console)
    with hosts.all_succeed():  # the other processes wait until everything is written
        if hosts.is_first():
            paths = write_evaluation(
                evaluation,
                source,
                captioner,
                data=data,
                split=arguments.split,
                command=shlex.join(sys.argv),
                directory=directory,
            )
            print_scores(
                console, evaluation.corpus, f"{model_name(path)} on {data} {arguments.split}"
            )
            for written in paths:
                console.print(f"wrote {written}", soft_wrap=True)
    return 0


def evaluate_split(
    captioner: LoadedModel, source: Source, split: str, console: Console
) -> Evaluation:
    """Caption and score a split with all devices and processes."""
    from jaxcap.devices import hosts
    from jaxcap.devices.parallel import on_local_devices, over_local_devices
    from jaxcap.evaluation import evaluate_source
    from jaxcap.messages.progress import Display

    with (
        hosts.ending_with_others(),
        Display(console, f"captioning {split}", total=len(source)) as display,
    ):
        return evaluate_source(
            source,
            decode=over_local_devices(captioner.decode),
            variables=on_local_devices(captioner.variables),
            vocabulary=captioner.vocabulary,
            config=captioner.config,
            report=display.update,
            attention=True,
            calibration=captioner.calibration,
        )


def _model(arguments: EvaluateArguments) -> Path:
    """Return the run or published model that the user named, or the model in the package."""
    if arguments.run is not None and arguments.model is not None:
        raise InputError(
            f"RUN is {arguments.run} and --model is {arguments.model}; give one of the two."
        )
    return arguments.run or arguments.model or packaged()


def _directory(model: Path, output: Path | None) -> Path:
    """Return the folder of the results, created if it is not the model's own."""
    from jaxcap.storage.published import is_published

    if output is None:
        if not is_published(model):
            return model
        output = Path("evaluations") / model.stem
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: {error.strerror}.") from None
    return output


def print_scores(console: Console, scores: dict[str, float], title: str) -> None:
    """Print scores as a table with one row."""
    table = Table(title=title, title_justify="left")
    for name in scores:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.1f}" for value in scores.values()))
    console.print(table)
