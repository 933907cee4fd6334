"""`jaxcap finetune`: fine-tune a captioner on other photographs."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from jaxcap.commands.parsing import parse_known
from jaxcap.commands.train import TrainArguments, parse_options, print_next, tell_interrupted
from jaxcap.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    TrainConfig,
    load_config,
    save_config,
)
from jaxcap.messages.errors import InputError, counted
from jaxcap.storage.packaged import model_name, packaged

if TYPE_CHECKING:
    from jaxcap.evaluation import Evaluation
    from jaxcap.metrics import ScoringUnits

_MAX_CAPTIONS = 5
_RULES: dict[str, Any] = {"no_repeated_content": False, "unrecognised_penalty": 0.0}
"""Rules that suit the packaged model, with the values that turn them off. Longer captions repeat
words ("blue shirt and blue jeans"), as other languages do, and the recogniser may not know what new
words mean."""


@dataclass(frozen=True)
class FinetuneArguments:
    """Fine-tune the model in the package, or another, on your own data.

    Architecture, preprocessing and vocabulary are the model's; the vocabulary gains the words of
    your captions. The defaults are for a few hundred to a few thousand photographs. Every option
    of jaxcap train may follow, such as --train.epochs 20 --evaluation.split test.

        jaxcap finetune --data mine
        jaxcap finetune --data mine --train.epochs 20 --workdir runs/longer
    """

    data: str
    """A data set built by jaxcap prepare."""
    model: Path | None = None
    """Directory of a run, or a published model; default: the model in the package."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    workdir: Path | None = None
    """Directory of the new run; default runs/DATA."""


def parse(argv: list[str]) -> TrainArguments:
    """Parse the arguments of `jaxcap finetune`; defaults come from the model and the data.

    Raises:
      InputError: there is no such model or data set.
    """
    if argv and not argv[0].startswith("-"):
        raise InputError(f"unknown argument '{argv[0]}'. Name a data set with --data {argv[0]}.")
    arguments, options = parse_known(FinetuneArguments, "jaxcap finetune", argv)
    workdir = arguments.workdir or Path("runs") / arguments.data
    config = finetuning(arguments)
    if (workdir / "config.json").is_file():  # a finished run has chosen its rules
        chosen = load_config(workdir / "config.json").search
        rules = {rule: getattr(chosen, rule) for rule in _RULES}
        config = dataclasses.replace(config, search=dataclasses.replace(config.search, **rules))
    return parse_options("finetune", options, TrainArguments(config, workdir))


def finetuning(arguments: FinetuneArguments) -> Config:
    """Return the configuration for fine-tuning.

    The encoder is frozen and its features are cached, so an epoch takes seconds. That rules out
    augmentation; dropout and label smoothing guard against overfitting instead.
    """
    from jaxcap.captioning.loaded_model import load
    from jaxcap.data.pipeline import all_captions
    from jaxcap.datasets.prepare import load_source

    path = arguments.model or packaged()
    start = load(path).config
    source = load_source(arguments.data, "train", arguments.data_dir)
    own = start.data
    return dataclasses.replace(
        start,
        data=DataConfig(
            name=arguments.data,
            data_dir=None if arguments.data_dir is None else str(arguments.data_dir),
            image_size=own.image_size,
            captions_per_image=min(_MAX_CAPTIONS, max(map(len, all_captions(source)))),
            min_count=3,
            units=own.units,
            normalisation=own.normalisation,
            length_buckets=own.length_buckets,
        ),
        encoder=dataclasses.replace(
            start.encoder,
            weights=None,
            trainable=False,
            train_from=None,
            cache_features=True,
            cache_dir=None,  # a model from a stranger names no folder to write to
        ),
        decoder=dataclasses.replace(
            start.decoder, embedding_dropout=0.3, feature_dropout=0.3, output_dropout=0.5
        ),
        train=TrainConfig(
            start_from=str(path),
            extend_vocabulary=True,
            batch_size=min(16, len(source)),
            epochs=15,
            learning_rate=2e-4,
            label_smoothing=0.1,
            weight_decay=1e-2,
        ),
        evaluation=EvaluationConfig(
            batch_size=start.evaluation.batch_size, units=start.evaluation.units
        ),
        stages=(),
    )


def run(arguments: TrainArguments, console: Console) -> int:
    """Fine-tune, and compare the best checkpoint with the captioner that it started from."""
    from jaxcap.captioning.loaded_model import load
    from jaxcap.commands.evaluate import evaluate_split
    from jaxcap.datasets.prepare import find_dataset, load_source
    from jaxcap.devices import hosts
    from jaxcap.evaluation import scoring_units, write_evaluation
    from jaxcap.training import Interrupted, train

    config, workdir = arguments.config, arguments.workdir
    try:
        summary = train(config, workdir, console=console)
    except Interrupted as interrupted:
        return tell_interrupted(interrupted, console)
    if not hosts.is_first():
        console = Console(quiet=True)
    split, start = config.evaluation.split, config.train.start_from
    assert start is not None
    source = load_source(config.data.name, split, config.data.directory)
    tuned, original = load(workdir), load(start)
    same = dataclasses.replace(original.config, evaluation=config.evaluation)
    original = dataclasses.replace(
        original, members=(dataclasses.replace(original.single, config=same),)
    )
    before = evaluate_split(original, source, split, console)
    after = evaluate_split(tuned, source, split, console)
    dropped, metric = [], config.evaluation.metric
    for rule, off in _RULES.items() if summary.best_step else ():
        if not getattr(config.search, rule):
            continue
        without = tuned.with_search(**{rule: off})
        scored = evaluate_split(without, source, split, console)
        if scored.corpus[metric] >= after.corpus[metric]:
            tuned, after = without, scored
            dropped.append(f"search.{rule}")
    if not hosts.is_first():
        return 0
    if dropped:
        save_config(tuned.config, workdir / "config.json")
        console.print(
            f"The {split} split scores no better with {' and '.join(dropped)}: now off in "
            "config.json.",
            soft_wrap=True,
        )
    *_, page = write_evaluation(after, source, tuned, split=split, command=shlex.join(sys.argv))
    console.print(
        _comparison(before, after, scoring_units(config), counted(len(source), f"{split} image"))
    )
    console.print(f"Fine-tuned for {summary.seconds / 60:.1f} minutes; captions: {page}.")
    if after.corpus[metric] <= before.corpus[metric]:
        original_name = model_name(Path(start))
        console.print(f"{metric} did not improve: stay with the original ({original_name}).")
        return 0
    console.print("Next:")
    splits = find_dataset(config.data.name, config.data.directory).splits
    print_next(arguments, "test" if splits.get("test") else split, console)
    return 0


def _comparison(before: Evaluation, after: Evaluation, units: ScoringUnits, images: str) -> Table:
    from jaxcap.scoring import bootstrap

    table = Table(title=f"Before and after, {images}", title_justify="left")
    for column in ("", "before", "after", "difference", "95 % interval"):
        table.add_column(column, justify="right" if column else "left")
    differences = bootstrap.compare(after.statistics(units), before.statistics(units))
    for name, found in differences.items():
        interval = f"{found.interval.low:+.1f} … {found.interval.high:+.1f}"
        scores = f"{before.corpus[name]:.1f}", f"{after.corpus[name]:.1f}"
        table.add_row(name, *scores, f"{found.difference:+.1f}", interval)
    return table
