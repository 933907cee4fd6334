"""One training step: a pure function that the caller compiles with `jax.jit` or `jax.pmap`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxcap.data.batch import Batch, Samples
from jaxcap.text.vocabulary import PAD
from jaxcap.training.step.accumulation import accumulate_gradients
from jaxcap.training.step.losses import Loss, attention_imbalance
from jaxcap.training.step.optimizer import apply_nonzero_updates, moving_average
from jaxcap.training.step.scheduled_sampling import ScheduledSampling
from jaxcap.training.step.state import TrainState

T = TypeVar("T")

Objective = Callable[..., Loss]
"""`objective(logits, targets, mask, *batch.objective_inputs) -> Loss`, as in `losses`."""


class StepMetrics(NamedTuple):
    """Sums of one step. Sum them over steps, then divide once.

    Attributes:
      loss: the summed objective: nats over words, with the attention penalty if there is one; for
        samples, −Σ log p.
      words: the number of words in that sum.
      grad_norm: the global norm of the gradient of the mean loss, before clipping.
      samples: the number of sampled captions; 0 unless the batch holds `Samples`, as are the next
        three.
      reward: the sum of their rewards.
      baseline: the sum of their baselines.
      ended: how many of them reached `<eos>`.
    """

    loss: Float[Array, ""]
    words: Float[Array, ""]
    grad_norm: Float[Array, ""]
    samples: Float[Array, ""] | float = 0.0
    reward: Float[Array, ""] | float = 0.0
    baseline: Float[Array, ""] | float = 0.0
    ended: Float[Array, ""] | float = 0.0


def train_step(
    state: TrainState,
    batch: Batch | Samples,
    rng: PRNGKeyArray,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    objective: Objective,
    method: str = "__call__",
    axis_name: str | None = None,
    attention_penalty: float = 0.0,
    sampling: ScheduledSampling | None = None,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> tuple[TrainState, StepMetrics]:
    """Take one optimizer step on the mean loss per word of the whole batch.

    All captions share one divisor, the words of the batch, so a caption's gradient does not
    depend on its own length.

    Args:
      rng: the run's key, the same at every step. The step number is folded in, so resuming needs
        no saved key.
      model: a `Captioner`, or a module that is called like one.
      objective: the loss to minimise; see `losses`.
      method: the method of the model that computes the objective's logits: `__call__`, those of
        the next words, or `detect`, those of words in images.
      axis_name: the mapped axis if `batch` is one device's share. Gradients and words are summed
        over devices before the division, so shares with unequal numbers of words count correctly.
      attention_penalty: λ of Xu et al. 2015, equation 14: the weight of `attention_imbalance`.
        If 0, the model need not return attention weights.
      sampling: scheduled sampling. Without it, decoders read the true words (teacher forcing).
      accumulate: how many parts to split the batch into and process in sequence; see
        `accumulate_gradients`.
      ema_decay: decay of `state.average`, if the state has one.

    Returns:
      The next state, and the sums to log.
    """
    # The same key on every device: each draws numbers for the whole batch and keeps its own rows.
    rng = jax.random.fold_in(rng, state.step)

    def loss_fn(params: Any, part: Batch | Samples, rng: PRNGKeyArray) -> tuple[Any, Any]:
        tokens = jnp.asarray(part.tokens)
        inputs, targets = tokens[:, :, :-1], tokens[:, :, 1:]
        mask = targets != PAD
        own_words = sampling and sampling.own_words(
            state.step, jax.random.fold_in(rng, 0), inputs, axis_name=axis_name
        )
        words: dict[str, Any] = {} if part.words is None else {"words": part.words}
        output, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            part.pixels,
            inputs,
            features=part.features,
            **words,
            train=True,
            own_words=own_words,
            rngs={"dropout": rng},
            mutable=["batch_stats"],
            method=method,
        )
        loss = objective(output.logits, targets, mask, *part.objective_inputs)
        if attention_penalty:
            penalty = attention_penalty * attention_imbalance(output.weights, mask)
            loss = loss._replace(total=loss.total + penalty)
        return loss.total, (loss, updates.get("batch_stats", state.batch_stats))

    gradient = functools.partial(jax.grad(loss_fn, has_aux=True), state.params)
    grads, (loss, batch_stats) = accumulate_gradients(
        gradient, batch, rng, parts=accumulate, batch_stats=state.batch_stats
    )
    grads, loss = _sum_over_devices((grads, loss), axis_name)
    grads = jax.tree.map(lambda g: g / jnp.maximum(loss.words, 1), grads)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = apply_nonzero_updates(state.params, updates)
    average = state.average
    if average is not None:
        average = moving_average(average, params, decay=ema_decay, step=state.step)

    next_state = TrainState(state.step + 1, params, batch_stats, opt_state, average)
    return next_state, _metrics(loss, grads)


def _sum_over_devices(tree: T, axis_name: str | None) -> T:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _metrics(loss: Loss, grads: Any) -> StepMetrics:
    sums = {"loss": loss.total, "words": loss.words, "grad_norm": optax.global_norm(grads)}
    return StepMetrics(**{**sums, **loss.logged})
