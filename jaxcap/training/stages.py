"""Training in stages: a sequence of experiments on the same parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcap.config import stage_configs
from jaxcap.devices.parallel import on_one_device
from jaxcap.model.captioner import create_captioner, variable_shapes
from jaxcap.model.cost import check_captioning, check_training
from jaxcap.model.encoders import frozen_stages
from jaxcap.model.encoders.freezing import stage_of
from jaxcap.training.experiment import Experiment
from jaxcap.training.step.optimizer import create_optimizer
from jaxcap.training.step.state import TrainState


def create_stages(experiment: Experiment) -> tuple[Experiment, ...]:
    """Return the experiments of all stages, in order; just the given one without stages.

    Raises:
      InputError: the encoder has no stage named `encoder.train_from`, or a stage or its evaluation
        takes more memory than there is.
    """
    stages = _staged(experiment) if experiment.config.stages else (experiment,)
    size, words = experiment.config.data.image_size, len(experiment.vocabulary)
    variables = variable_shapes(experiment.model, image_size=size)
    for stage in stages:

        def first_state(variables: dict[str, Any], stage: Experiment = stage) -> list[Any]:
            average = stage.config.train.ema_decay > 0
            return jax.tree.leaves(TrainState.create(variables, stage.tx, average=average))

        check_training(stage.config, jax.eval_shape(first_state, variables), words)
        check_captioning(stage.config, words, batch_size=stage.config.evaluation.batch_size)
    return stages


def _staged(experiment: Experiment) -> tuple[Experiment, ...]:
    stages: list[Experiment] = []
    for config in stage_configs(experiment.config):
        model = create_captioner(
            config,
            len(experiment.vocabulary),
            words=experiment.vocabulary.words,
            axis_name=experiment.model.encoder.axis_name,
        )
        steps_per_epoch = experiment.data.steps_per_epoch(config)
        tx = create_optimizer(
            config.train,
            config.encoder,
            steps_per_epoch=steps_per_epoch,
            recognition=config.recognition,
        )
        turns, first_epoch = experiment.turns, 0
        if stages:
            before = stages[-1]
            turns = before.turns.followed_by(experiment.data.shares(config.data), stop=before.total)
            first_epoch = before.first_epoch + before.config.train.epochs
        stages.append(
            dataclasses.replace(
                experiment,
                config=config,
                model=model,
                tx=tx,
                turns=turns,
                first_epoch=first_epoch,
                steps_per_epoch=steps_per_epoch,
            )
        )
    return tuple(stages)


def stage_at(stages: Sequence[Experiment], step: int) -> Experiment:
    """Return the stage that trained the state after `step` steps."""
    return next((stage for stage in stages if step <= stage.total), stages[-1])


def enter_stage(stage: Experiment, state: TrainState) -> TrainState:
    """Return the state with which a stage starts.

    Parameters, their average, batch statistics and the step count carry over. The optimizer state
    and the learning-rate schedule start again.

    Frozen encoder parameters take the values of their moving average, if the state has one.
    Otherwise the average would still change, and evaluation would use another encoder than the
    decoder is trained on.
    """
    if stage.first_step == 0:
        return state
    params = on_one_device(state.params)
    if state.average is not None:
        encoder, average = stage.config.encoder, on_one_device(state.average["encoder"])
        frozen = frozen_stages(encoder)
        averaged = {
            # A buffer that appears twice in the state cannot be donated.
            module: jax.tree.map(jnp.copy, leaves)
            for module, leaves in average.items()
            if not encoder.trainable or stage_of(module) in frozen
        }
        params = {**params, "encoder": {**params["encoder"], **averaged}}
        state = dataclasses.replace(state, params=stage.parallel.place(params))
    opt_state = jax.jit(stage.tx.init)(params)
    return dataclasses.replace(state, opt_state=stage.parallel.place(opt_state))
