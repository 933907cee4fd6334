"""A training in stages: one experiment after the other, on the same parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from jaxcap.captioner import create_captioner
from jaxcap.config import stage_configs
from jaxcap.optimizer import create_optimizer
from jaxcap.parallel import on_one_device
from jaxcap.state import TrainState
from jaxcap.training.experiment import Experiment


def stages_of(experiment: Experiment) -> tuple[Experiment, ...]:
    """The experiment of each stage, in order; of a training without stages itself.

    Raises:
      InputError: an encoder has no stage of that name to train from.
    """
    if not experiment.config.stages:
        return (experiment,)
    stages: list[Experiment] = []
    for config in stage_configs(experiment.config):
        model = create_captioner(
            config, len(experiment.vocabulary), axis_name=experiment.model.encoder.axis_name
        )
        tx = create_optimizer(
            config.train, config.encoder, steps_per_epoch=experiment.steps_per_epoch
        )
        first = stages[-1].total if stages else 0
        stages.append(
            dataclasses.replace(experiment, config=config, model=model, tx=tx, first_step=first)
        )
    return tuple(stages)


def stage_at(stages: Sequence[Experiment], step: int) -> Experiment:
    """The stage that the state after `step` steps was made by; at a border the one before it."""
    return next((stage for stage in stages if step <= stage.total), stages[-1])


def begun(stage: Experiment, state: TrainState) -> TrainState:
    """The state as a stage begins with it.

    Parameters, their average and batch statistics stay, and the count of steps, which dropout and
    the data follow, goes on. The optimizer's moments and the learning rate's schedule start anew.
    """
    if stage.first_step == 0:
        return state
    opt_state = jax.jit(stage.tx.init)(on_one_device(state.params))
    return dataclasses.replace(state, opt_state=stage.parallel.place(opt_state))
