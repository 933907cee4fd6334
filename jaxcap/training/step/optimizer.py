"""The optimizer: learning-rate schedule, update direction, weight decay and clipping."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcap.config import EncoderConfig, RecognitionConfig, TrainConfig
from jaxcap.model.encoders import frozen_stages
from jaxcap.model.encoders.freezing import stage_of


def learning_rate(config: TrainConfig, *, steps_per_epoch: int) -> optax.Schedule:
    """Create the schedule: linear warm-up to the peak, then decay by `config.schedule`.

    With the peak η, at step i of the n steps after warm-up:

        cosine       η (1 + cos(π i / n)) / 2 (Loshchilov and Hutter 2016,
                     https://arxiv.org/abs/1608.03983, equation 5)
        linear       η (1 − i / n)
        constant     η
        exponential  η r^(i / d) with r = `decay_rate` and d = `decay_epochs` in steps
        step         η r^⌊i / d⌋
    """
    total = max(2, config.epochs * steps_per_epoch)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    peak, start = config.learning_rate, config.learning_rate / max(1, warmup)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(start, peak, warmup, total)
    interval = min(max(1, round(config.decay_epochs * steps_per_epoch)), np.iinfo(np.int32).max)
    match config.schedule:
        case "linear":
            after = optax.linear_schedule(peak, 0.0, total - warmup)
        case "constant":
            after = optax.constant_schedule(peak)
        case name:
            staircase = name == "step"
            after = optax.exponential_decay(peak, interval, config.decay_rate, staircase=staircase)
    return optax.join_schedules([optax.linear_schedule(start, peak, warmup), after], [warmup])


def _matrices(params: Any) -> Any:
    """Mask the parameters to decay: matrices and kernels, but no biases or normalisation."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


# The direction of one update, before weight decay and learning rate.
_DIRECTIONS: dict[str, Callable[[TrainConfig], optax.GradientTransformation]] = {
    # Kingma and Ba 2014, https://arxiv.org/abs/1412.6980
    "adam": lambda _: optax.scale_by_adam(),
    # Adam with decoupled decay: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101
    "adamw": lambda _: optax.scale_by_adam(),
    # Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
    "nadamw": lambda _: optax.scale_by_adam(nesterov=True),
    # Zhuang et al. 2020, https://arxiv.org/abs/2010.07468
    "adabelief": lambda _: optax.scale_by_belief(),
    # Chen et al. 2023, https://arxiv.org/abs/2302.06675; rates 3 to 10 times below Adam's
    "lion": lambda _: optax.scale_by_lion(),
    # Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, algorithm 4: factored second
    # moments, and a rate relative to the scale of the parameters
    "adafactor": lambda _: optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    ),
    # Hinton 2012, lecture 6e of "Neural Networks for Machine Learning"
    "rmsprop": lambda _: optax.scale_by_rms(),
    # Duchi, Hazan and Singer 2011
    "adagrad": lambda _: optax.scale_by_rss(),
    # Polyak 1964, heavy-ball momentum
    "sgd": lambda train: optax.trace(train.momentum),
}


def create_optimizer(
    train: TrainConfig,
    encoder: EncoderConfig,
    *,
    steps_per_epoch: int,
    recognition: RecognitionConfig = RecognitionConfig(),  # noqa: B008 (frozen)
) -> optax.GradientTransformation:
    """Create the transformation: clip by global norm, then update encoder and decoder apart.

    Weight decay is decoupled from the gradient for every optimizer, as in AdamW; `adam` has none.
    The encoder's learning rate is `encoder.learning_rate_factor` times the decoder's.

    Frozen parameters (the whole encoder, or its stages before `encoder.train_from`) have no
    optimizer state and never move, neither by momentum nor by weight decay. The model stops their
    gradient, so they do not count towards the clipped norm. The recogniser learns with the
    objective `word_detection`, and then nothing else does; its own stages learn at the encoder's
    rate, if `recognition.trainable`.

    Raises:
      InputError: the encoder has no stage `encoder.train_from`.
    """
    schedule = learning_rate(train, steps_per_epoch=steps_per_epoch)
    frozen, detects = frozen_stages(encoder), train.objective == "word_detection"
    recognises = recognition.words > 0
    # Parts of the recogniser that do not learn as its detector does.
    others = {"classifier": "frozen", "encoder": "branch" if recognition.trainable else "frozen"}

    def label(path: tuple[jax.tree_util.DictKey, ...], _parameter: Any) -> str:
        part = path[0].key
        if part == "recogniser":
            return others.get(path[1].key, part) if detects else "frozen"
        if detects or (part == "encoder" and stage_of(path[1].key) in frozen):
            return "frozen"
        return part

    def learner(factor: float) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(train.weight_decay, _matrices)
        return optax.chain(
            _DIRECTIONS[train.optimizer](train),
            optax.identity() if train.optimizer == "adam" else decay,
            optax.scale_by_learning_rate(lambda step: factor * schedule(step)),
        )

    learned = learner(encoder.learning_rate_factor) if encoder.trainable else optax.set_to_zero()
    transforms = {"encoder": learned, "decoder": learner(1.0)}
    if frozen or recognises:
        transforms["frozen"] = optax.set_to_zero()
    if recognises:
        transforms |= {"recogniser": learner(1.0), "branch": learner(encoder.learning_rate_factor)}
    return optax.chain(
        optax.clip_by_global_norm(train.clip_norm),
        optax.partition(transforms, partial(jax.tree_util.tree_map_with_path, label)),
    )


def moving_average(average: Any, params: Any, *, decay: float, step: Any) -> Any:
    """Update θ̄ ← d θ̄ + (1 − d) θ with d = min(`decay`, (1 + t) / (10 + t)) at step t, from 0.

    Averages that equal their parameters keep every bit. `optax.incremental_update` computes the
    sum as written above, which rounds: one frozen parameter in five would change.

    References:
      Polyak and Juditsky 1992. The smaller d of the first steps, as in TensorFlow, forgets the
      random initial parameters.
    """
    d = jnp.minimum(decay, (1 + step) / (10 + step))
    return apply_nonzero_updates(
        average, jax.tree.map(lambda p, a: (1 - d) * (p - a), params, average)
    )


def apply_nonzero_updates(params: Any, updates: Any) -> Any:
    """Add updates to parameters, leaving those with a zero update bit for bit unchanged.

    `optax.apply_updates` would not: −0 + 0 is 0, and CPUs flush subnormal numbers to zero.
    """
    return jax.tree.map(lambda p, u: jnp.where(u == 0, p, p + u), params, updates)
