"""One step of training: a pure function, jitted or pmapped by its caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxcap.data.batch import Batch, Samples
from jaxcap.model.captioner import Captioner
from jaxcap.text.vocabulary import EOS, PAD
from jaxcap.training.step.accumulation import sum_over_parts
from jaxcap.training.step.losses import attention_imbalance
from jaxcap.training.step.optimizer import apply_nonzero_updates, moving_average
from jaxcap.training.step.scheduled_sampling import ScheduledSampling
from jaxcap.training.step.state import TrainState

Objective = Callable[..., tuple[Float[Array, ""], Float[Array, ""]]]
"""`losses.cross_entropy`, or `losses.policy_gradient`, which takes the advantages of `Samples` too
and returns what is to be logged in the place of the loss."""


class StepMetrics(NamedTuple):
    """Sums of one step, to be added over steps and divided once.

    Attributes:
      loss: the objective summed over words; of samples their −log p.
      words: how many words that was.
      grad_norm: global norm of the gradient of the mean loss, before clipping.
      samples: how many captions were sampled; 0, like the sums below, where none are.
      reward: sum of their rewards.
      baseline: sum of what these were compared with.
      ended: how many of them came to an end.
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
    model: Captioner,
    tx: optax.GradientTransformation,
    objective: Objective,
    axis_name: str | None = None,
    attention_penalty: float = 0.0,
    sampling: ScheduledSampling | None = None,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> tuple[TrainState, StepMetrics]:
    """One optimizer step on the mean loss per word of the whole batch.

    The words of samples are counted likewise. All captions of a batch are divided by the same
    number, so a caption's gradient does not depend on its length, and it has the direction that
    dividing by the captions would give, and the size of a cross-entropy's.

    Args:
      rng: the run's key, the same at every step; the step number is folded into it, so a
        resumed run needs no saved key.
      axis_name: the mapped axis when `batch` is one device's share. Sums and gradients are
        then added over devices and divided by the words of all, so that uneven captions on
        uneven devices change nothing.
      attention_penalty: λ of Xu et al. 2015, equation 14: the weight, beside the summed loss of
        the words, of `attention_imbalance`.
      sampling: gives the decoder its own words to read in the place of some true ones.
      accumulate: parts that the batch is computed in, one after the other. The loss and its
        gradient are those of the whole. Batch normalisation takes each part by itself, and the
        stored statistics move once, by the mean over the parts.
      ema_decay: of the moving average of parameters, if the state has one.
    """
    # The same on every device: what is drawn with it is drawn for the whole batch, of which each
    # device takes its rows (decoders.dropout).
    rng = jax.random.fold_in(rng, state.step)

    def everywhere(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    words = (jnp.asarray(batch.tokens)[:, :, 1:] != PAD).sum()
    words_everywhere = everywhere(words.astype(jnp.float32))

    def gradient(part: Any, rng: PRNGKeyArray) -> tuple[Any, Any, Any]:
        """Of what the part adds to the mean loss; with its summed loss and batch statistics."""
        tokens = jnp.asarray(part.tokens)
        inputs, targets = tokens[:, :, :-1], tokens[:, :, 1:]
        mask = targets != PAD
        sampled = isinstance(part, Samples)
        advantages = (part.rewards - part.baselines,) if sampled else ()
        own_words = sampling and sampling.own_words(
            state.step, jax.random.fold_in(rng, 0), inputs, axis_name=axis_name
        )

        def loss_fn(params: Any) -> tuple[Any, Any]:
            output, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                part.images if part.images.ndim == 4 else None,
                inputs,
                features=part.images if part.images.ndim == 3 else None,
                train=True,
                own_words=own_words,
                rngs={"dropout": rng},
                mutable=["batch_stats"],
            )
            loss, surprise = objective(output.logits, targets, mask, *advantages)
            if attention_penalty:
                loss += attention_penalty * attention_imbalance(output.weights, mask)[0]
            batch_stats = updates.get("batch_stats", state.batch_stats)
            logged = surprise if sampled else loss
            return loss / jnp.maximum(words_everywhere, 1), (logged, batch_stats)

        (_, (loss, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return grads, loss, batch_stats

    def with_moves(part: Any, rng: PRNGKeyArray) -> tuple[Any, Any, Any]:
        grads, loss, batch_stats = gradient(part, rng)
        return grads, loss, jax.tree.map(jnp.subtract, batch_stats, state.batch_stats)

    if accumulate == 1:
        grads, loss, batch_stats = gradient(batch, rng)
    else:
        grads, loss, moves = sum_over_parts(with_moves, batch, rng, parts=accumulate)
        batch_stats = apply_nonzero_updates(
            state.batch_stats, jax.tree.map(lambda x: x / accumulate, moves)
        )
    grads = everywhere(grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = apply_nonzero_updates(state.params, updates)
    average = state.average
    if average is not None:
        average = moving_average(average, params, decay=ema_decay, step=state.step)
    metrics = StepMetrics(everywhere(loss), words_everywhere, optax.global_norm(grads))
    if isinstance(batch, Samples):
        metrics = metrics._replace(**everywhere(_sums(batch)))
    return (
        TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=average,
        ),
        metrics,
    )


def _sums(batch: Samples) -> dict[str, Float[Array, ""]]:
    tokens, rewards = jnp.asarray(batch.tokens), jnp.asarray(batch.rewards)
    return {
        "samples": jnp.float32(rewards.size),
        "reward": rewards.sum(),
        "baseline": jnp.asarray(batch.baselines).sum(),
        "ended": (tokens == EOS).any(axis=2).sum().astype(jnp.float32),
    }
