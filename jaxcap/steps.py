"""One step of training: a pure function, jitted or pmapped by its caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxcap.captioner import Captioner
from jaxcap.data.batch import Batch
from jaxcap.optimizer import apply_updates
from jaxcap.state import TrainState
from jaxcap.vocabulary import PAD

Objective = Callable[
    [Float[Array, "B N T V"], Int[Array, "B N T"], Bool[Array, "B N T"]],
    tuple[Float[Array, ""], Float[Array, ""]],
]


class StepMetrics(NamedTuple):
    """Sums of one step, to be added over steps and divided once.

    Attributes:
      loss: the objective summed over words.
      words: how many words that was.
      grad_norm: global norm of the gradient of the mean loss, before clipping.
    """

    loss: Float[Array, ""]
    words: Float[Array, ""]
    grad_norm: Float[Array, ""]


def train_step(
    state: TrainState,
    batch: Batch,
    rng: PRNGKeyArray,
    *,
    model: Captioner,
    tx: optax.GradientTransformation,
    objective: Objective,
    axis_name: str | None = None,
) -> tuple[TrainState, StepMetrics]:
    """One optimizer step on the mean loss per word of the whole batch.

    Args:
      rng: the run's key, the same at every step; the step number is folded into it, so a
        resumed run needs no saved key.
      axis_name: the mapped axis when `batch` is one device's share. Sums and gradients are
        then added over devices and divided by the words of all, so that uneven captions on
        uneven devices change nothing.
    """
    rng = jax.random.fold_in(rng, state.step)
    if axis_name is not None:
        rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))

    def everywhere(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    tokens = jnp.asarray(batch.tokens)
    inputs, targets = tokens[:, :, :-1], tokens[:, :, 1:]
    mask = targets != PAD
    words_everywhere = everywhere(mask.sum().astype(jnp.float32))

    def loss_fn(params: Any) -> tuple[Any, Any]:
        output, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch.images,
            inputs,
            train=True,
            rngs={"dropout": rng},
            mutable=["batch_stats"],
        )
        loss, _ = objective(output.logits, targets, mask)
        batch_stats = updates.get("batch_stats", state.batch_stats)
        return loss / jnp.maximum(words_everywhere, 1), (loss, batch_stats)

    (_, (loss, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads = everywhere(grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics = StepMetrics(everywhere(loss), words_everywhere, optax.global_norm(grads))
    return (
        TrainState(
            step=state.step + 1,
            params=apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        ),
        metrics,
    )
