"""Gradient accumulation: compute a batch in parts, with the same sums in less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxcap.training.step.optimizer import apply_nonzero_updates

T = TypeVar("T")


def accumulate_gradients(
    gradient: Callable[[Any, PRNGKeyArray], tuple[Any, tuple[Any, Any]]],
    batch: Any,
    rng: PRNGKeyArray,
    *,
    parts: int,
    batch_stats: Any,
) -> tuple[Any, tuple[Any, Any]]:
    """Sum gradients and losses over the parts of a batch.

    Batch normalisation sees each part alone. The stored statistics move once, by the mean of
    their changes over the parts.

    Args:
      gradient: `gradient(part, rng) -> (grads, (loss, batch_stats))`; gradients and loss are
        sums over the part.
      batch: a tree of arrays `[B, …]`.
      parts: a divisor of B; 1 computes the batch at once.
      batch_stats: the statistics before the step.

    Returns:
      `(grads, (loss, batch_stats))` of the whole batch.
    """
    if parts == 1:
        return gradient(batch, rng)

    def with_changes(part: Any, rng: PRNGKeyArray) -> tuple[Any, Any, Any]:
        grads, (loss, after) = gradient(part, rng)
        return grads, loss, jax.tree.map(jnp.subtract, after, batch_stats)

    grads, loss, changes = sum_over_parts(with_changes, batch, rng, parts=parts)
    mean = jax.tree.map(lambda x: x / parts, changes)
    return grads, (loss, apply_nonzero_updates(batch_stats, mean))


def sum_over_parts(
    f: Callable[[Any, PRNGKeyArray], T], batch: Any, rng: PRNGKeyArray, *, parts: int
) -> T:
    """Compute Σₖ f(part k, key k) in the memory of one part.

    Args:
      f: returns a tree of arrays, each a sum over the part.
      batch: a tree of arrays `[B, …]`. Part k holds the images k, k + parts, k + 2 · parts, …, so
        every part has its share of each device's images.
      parts: a divisor of B.
    """

    def split(x: Any) -> Any:
        return jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)

    def add(total: T, numbered: tuple[Any, Any]) -> tuple[T, None]:
        k, part = numbered
        return jax.tree.map(jnp.add, total, f(part, jax.random.fold_in(rng, k))), None

    batches = jax.tree.map(split, batch)
    shapes = jax.eval_shape(f, jax.tree.map(lambda x: x[0], batches), rng)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), batches))
    return total
