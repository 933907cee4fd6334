"""`evaluate.py`: captions and scores a split."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from jaxcap.commands import given, print_scores


@dataclass(frozen=True)
class EvaluateArguments:
    """Captions every image of a split, scores the captions and writes a report."""

    run: tyro.conf.Positional[Path]
    """Directory of a run, as train.py left it."""
    split: str = "dev"
    data_dir: Path | None = None
    """Where prepared data sets lie, if not where they lay in training."""
    beam_size: int | None = None
    length_penalty: float | None = None
    latest: bool = False
    """Use the latest checkpoint instead of the best."""


def run(arguments: EvaluateArguments, console: Console) -> int:
    """Leaves captions, scores and a report in the directory of the run."""
    from jaxcap.data.prepare import load_source
    from jaxcap.evaluation import evaluate_source, write_evaluation
    from jaxcap.inference import load
    from jaxcap.progress import Display

    captioner = load(arguments.run, best=not arguments.latest)
    captioner = captioner.with_search(
        **given(beam_size=arguments.beam_size, length_penalty=arguments.length_penalty)
    )
    data = captioner.config.data
    source = load_source(data.name, arguments.split, arguments.data_dir or data.directory)
    with Display(console, f"captioning {arguments.split}", total=len(source)) as display:
        evaluation = evaluate_source(
            source,
            decode=captioner.decode,
            variables=captioner.variables,
            vocabulary=captioner.vocabulary,
            config=captioner.config,
            report=display.update,
            attention=True,
        )
    command = "python evaluate.py " + shlex.join(sys.argv[1:])
    paths = write_evaluation(evaluation, source, captioner, split=arguments.split, command=command)
    print_scores(console, evaluation.corpus, f"{arguments.run} on {arguments.split}")
    for path in paths:
        console.print(f"wrote {path}", soft_wrap=True)
    return 0
