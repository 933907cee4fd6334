"""Replay a step that diverged, from its batch and the checkpoint before it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxcap.config import load_config
from jaxcap.data.batch import Batch
from jaxcap.devices.parallel import use_device
from jaxcap.messages.errors import InputError
from jaxcap.messages.progress import Display, print_line
from jaxcap.storage.checkpoints import Checkpoints
from jaxcap.storage.runs import check_copies
from jaxcap.training.divergence import Divergence, Offender, divergence, load_offender
from jaxcap.training.experiment import Experiment
from jaxcap.training.setup import first_state, set_up, with_features
from jaxcap.training.stages import create_stages, enter_stage, stage_at


@dataclass(frozen=True)
class Replay:
    """The result of replaying a step.

    Attributes:
      loss: the mean per word, in nats.
      images: the names of the images in the batch.
      divergence: why the step diverged, or None if it did not this time.
    """

    step: int
    loss: float
    grad_norm: float
    images: list[str]
    divergence: Divergence | None


def replay(path: Path, *, console: Console, data_dir: Path | None = None) -> Replay:
    """Replay the steps from the last checkpoint to the one that diverged. Writes nothing.

    On a deterministic device, they match the original steps bit for bit.

    Args:
      path: the batch, as `save_offender` wrote it.
      data_dir: the folder of data sets, in place of the one in the run's configuration.

    Raises:
      InputError: `path` is not a `diverged-STEP.npz` in the directory of a run, or the checkpoint
        is missing or damaged.
    """
    offender, workdir = load_offender(path), path.parent
    config = load_config(workdir / "config.json")
    if data_dir is not None:
        data = dataclasses.replace(config.data, data_dir=str(data_dir))
        config = dataclasses.replace(config, data=data)
    if config.train.device == "cpu":
        use_device("cpu")
    config = dataclasses.replace(
        config,
        # A run from a stranger names no folder to write to.
        encoder=dataclasses.replace(config.encoder, cache_dir=None),
        # JAX finds other devices by itself, if this machine has them.
        train=dataclasses.replace(config.train, device="auto"),
    )
    experiment = set_up(config, workdir, console=console)
    stages = create_stages(experiment)
    if not 0 <= offender.after < offender.step <= stages[-1].total:
        raise InputError(
            f"{path}: step {offender.step}, replayed from step {offender.after}, is none of the "
            f"{stages[-1].total} steps of the run in this directory."
        )
    experiment, state = stage_at(stages, offender.step), first_state(stages[0])
    if offender.after:
        with Checkpoints(
            workdir / "checkpoints", metric=config.evaluation.metric, reading_only=True
        ) as checkpoints:
            if not checkpoints.has(offender.after):
                raise InputError(
                    f"{workdir}: the checkpoint of step {offender.after} is missing, and replaying "
                    f"step {offender.step} starts there. Train again until it diverges."
                )
            like = enter_stage(stage_at(stages, offender.after), state)
            state = checkpoints.restore(offender.after, like=like)
        check_copies(workdir, experiment.config, experiment.vocabulary, offender.after)
    if offender.after == experiment.first_step:
        state = enter_stage(experiment, state)
    if experiment.config.encoder.cache_features:
        experiment = with_features(experiment, state)
    _check_batch(offender, experiment, path)
    step, rng = experiment.step(), jax.random.key(config.train.seed)
    print_line(console, f"Replaying steps {offender.after + 1} to {offender.step}")
    with Display(console, "step", total=offender.step, done=offender.after) as display:
        if offender.after < offender.step - 1:
            batches = experiment.batches(offender.after, offender.step - 1)
            for done, batch in enumerate(batches, start=offender.after + 1):
                state, _ = step(state, batch, rng)
                display.update(done)
        state, metrics = step(state, offender.batch, rng)
        metrics = jax.device_get(metrics)
    assert offender.batch.numbers is not None  # as in every training batch
    return Replay(
        step=offender.step,
        loss=float(metrics.loss) / max(1.0, float(metrics.words)),
        grad_norm=float(metrics.grad_norm),
        images=[str(experiment.data.record(int(i))["image_id"]) for i in offender.batch.numbers],
        divergence=divergence(metrics, offender.step, vocabulary=len(experiment.vocabulary)),
    )


def _check_batch(offender: Offender, experiment: Experiment, path: Path) -> None:
    """Compare the saved batch with the one that the number of the step determines.

    Raises:
      InputError: the arrays have other shapes, other images, or words that the vocabulary lacks.
    """
    found = offender.batch
    expected = next(iter(experiment.batches(offender.step - 1, offender.step, whole=True)))
    if (
        _form(found) != _form(expected)
        or not np.array_equal(found.numbers, expected.numbers)  # type: ignore[arg-type]
        or not np.isin(found.tokens, np.arange(len(experiment.vocabulary))).all()
    ):
        raise InputError(
            f"{path}: its batch is not that of step {offender.step} of the run in this directory. "
            "It is damaged, or the data set has changed since."
        )


def _form(batch: Batch) -> Any:
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch._asdict())
