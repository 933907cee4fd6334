"""The gradient transformation of a configuration: AdamW, warm-up, cosine, clipping."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcap.config import EncoderConfig, TrainConfig
from jaxcap.encoders.freezing import frozen_stages
from jaxcap.encoders.stages import stage_of


def learning_rate(config: TrainConfig, *, steps_per_epoch: int) -> optax.Schedule:
    """Linear warm-up to the peak, then cosine decay to zero at the last step.

    Loshchilov and Hutter 2016, https://arxiv.org/abs/1608.03983.
    """
    total = max(2, config.epochs * steps_per_epoch)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / max(1, warmup),
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=total,
    )


def _matrices(params: Any) -> Any:
    """Weight decay shrinks matrices and kernels; biases and normalisation stay free."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def create_optimizer(
    train: TrainConfig, encoder: EncoderConfig, *, steps_per_epoch: int
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2017) on the clipped gradient, encoder and decoder apart.

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

    def adamw(factor: float) -> optax.GradientTransformation:
        return optax.adamw(
            lambda step: factor * schedule(step),
            weight_decay=train.weight_decay,
            mask=_matrices,
        )

    moves = adamw(encoder.learning_rate_factor) if encoder.trainable else optax.set_to_zero()
    transforms = {"encoder": moves, "decoder": adamw(1.0)}
    if frozen:
        transforms["frozen"] = optax.set_to_zero()
    return optax.chain(
        optax.clip_by_global_norm(train.clip_norm),
        optax.partition(transforms, partial(jax.tree_util.tree_map_with_path, label)),
    )


def apply_updates(params: Any, updates: Any) -> Any:
    """The parameters after the updates; those whose update is zero keep every bit.

    A sum would not: −0 + 0 is 0, and a CPU takes subnormal numbers for zero.
    """
    return jax.tree.map(lambda p, u: jnp.where(u == 0, p, p + u), params, updates)
