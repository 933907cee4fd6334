"""A training in stages: one experiment after the other, on the same parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcap.config import stage_configs
from jaxcap.devices.parallel import on_one_device
from jaxcap.model.captioner import create_captioner
from jaxcap.model.encoders import frozen_stages
from jaxcap.model.encoders.freezing import stage_of
from jaxcap.training.experiment import Experiment
from jaxcap.training.step.optimizer import create_optimizer
from jaxcap.training.step.state import TrainState


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

    What stands still of the encoder from here on is its average, where there is one: else that
    would still move, and what is evaluated and kept would not be what the decoder learns on.
    """
    if stage.first_step == 0:
        return state
    params = on_one_device(state.params)
    if state.average is not None:
        encoder, average = stage.config.encoder, on_one_device(state.average["encoder"])
        frozen = frozen_stages(encoder)
        still = {
            # A copy, for a buffer that is in two places cannot be donated.
            module: jax.tree.map(jnp.copy, leaves)
            for module, leaves in average.items()
            if not encoder.trainable or stage_of(module) in frozen
        }
        params = {**params, "encoder": {**params["encoder"], **still}}
        state = dataclasses.replace(state, params=stage.parallel.place(params))
    opt_state = jax.jit(stage.tx.init)(params)
    return dataclasses.replace(state, opt_state=stage.parallel.place(opt_state))
