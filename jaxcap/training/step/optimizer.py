"""The gradient transformation of a configuration: schedule, optimizer, decay, clipping."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcap.config import EncoderConfig, TrainConfig
from jaxcap.model.encoders import frozen_stages
from jaxcap.model.encoders.freezing import stage_of


def learning_rate(config: TrainConfig, *, steps_per_epoch: int) -> optax.Schedule:
    """Linear warm-up to the peak, then what `config.schedule` names.

    With i steps since the warm-up, of n that remain, and the peak η:
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
    interval = max(1, round(config.decay_epochs * steps_per_epoch))
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
    """Weight decay shrinks matrices and kernels; biases and normalisation stay free."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


# Whither a step goes, before decay and learning rate.
_DIRECTIONS: dict[str, Callable[[TrainConfig], optax.GradientTransformation]] = {
    # Kingma and Ba 2014, https://arxiv.org/abs/1412.6980
    "adam": lambda _: optax.scale_by_adam(),
    # The same with decay: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101
    "adamw": lambda _: optax.scale_by_adam(),
    # Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
    "nadamw": lambda _: optax.scale_by_adam(nesterov=True),
    # Zhuang et al. 2020, https://arxiv.org/abs/2010.07468
    "adabelief": lambda _: optax.scale_by_belief(),
    # Chen et al. 2023, https://arxiv.org/abs/2302.06675; rates 3 to 10 times below Adam's
    "lion": lambda _: optax.scale_by_lion(),
    # Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, algorithm 4; moments by rows and
    # columns, and a rate relative to the size of the parameters
    "adafactor": lambda _: optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    ),
    # Hinton 2012, lecture 6e of "Neural Networks for Machine Learning"
    "rmsprop": lambda _: optax.scale_by_rms(),
    # Duchi, Hazan and Singer 2011
    "adagrad": lambda _: optax.scale_by_rss(),
    # Polyak 1964, the heavy ball
    "sgd": lambda train: optax.trace(train.momentum),
}


def create_optimizer(
    train: TrainConfig, encoder: EncoderConfig, *, steps_per_epoch: int
) -> optax.GradientTransformation:
    """`train.optimizer` on the clipped gradient, encoder and decoder apart.

    Weight decay is decoupled from the gradient for all of them, as in AdamW; `adam` has none.
    The encoder learns at `encoder.learning_rate_factor` times the decoder's rate. What is
    frozen, all of the encoder or its stages before `encoder.train_from`, has no optimizer
    state and does not move: not by momentum and not by weight decay either. Nor does it
    count in the norm that is clipped, because the model stops its gradient.

    Raises:
      InputError: the encoder has no stage `encoder.train_from`.
    """
    schedule = learning_rate(train, steps_per_epoch=steps_per_epoch)
    frozen = frozen_stages(encoder)

    def label(path: tuple[jax.tree_util.DictKey, ...], _parameter: Any) -> str:
        part = path[0].key
        return "frozen" if part == "encoder" and stage_of(path[1].key) in frozen else part

    def learner(factor: float) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(train.weight_decay, _matrices)
        return optax.chain(
            _DIRECTIONS[train.optimizer](train),
            optax.identity() if train.optimizer == "adam" else decay,
            optax.scale_by_learning_rate(lambda step: factor * schedule(step)),
        )

    moves = learner(encoder.learning_rate_factor) if encoder.trainable else optax.set_to_zero()
    transforms = {"encoder": moves, "decoder": learner(1.0)}
    if frozen:
        transforms["frozen"] = optax.set_to_zero()
    return optax.chain(
        optax.clip_by_global_norm(train.clip_norm),
        optax.partition(transforms, partial(jax.tree_util.tree_map_with_path, label)),
    )


def moving_average(average: Any, params: Any, *, decay: float, step: Any) -> Any:
    """θ̄ ← d θ̄ + (1 − d) θ with d = min(`decay`, (1 + t) / (10 + t)) at step t, counted from 0.

    Polyak and Juditsky 1992; the smaller d of the first steps, TensorFlow's, forgets the random
    parameters of the beginning. What did not move keeps every bit.
    """
    d = jnp.minimum(decay, (1 + step) / (10 + step))
    return apply_nonzero_updates(
        average, jax.tree.map(lambda p, a: (1 - d) * (p - a), params, average)
    )


def apply_nonzero_updates(params: Any, updates: Any) -> Any:
    """The parameters after the updates; those whose update is zero keep every bit.

    A sum would not: −0 + 0 is 0, and a CPU takes subnormal numbers for zero.
    """
    return jax.tree.map(lambda p, u: jnp.where(u == 0, p, p + u), params, updates)
