"""A batch computed in parts, one after the other: more time, less memory, the same sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

T = TypeVar("T")


def sum_over_parts(
    f: Callable[[Any, PRNGKeyArray], T], batch: Any, rng: PRNGKeyArray, *, parts: int
) -> T:
    """Σₖ f(part k, key k), with the memory of one part.

    Args:
      f: returns a tree of arrays, sums over what it is given.
      batch: a tree of arrays whose first axis is divided. Part k has the images k, k + parts,
        k + 2 · parts, …, so that each part has its share of every device's images.
      parts: how many; a divisor of the first axis.
    """

    def divided(x: Any) -> Any:
        return jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)

    def add(total: T, numbered: tuple[Any, Any]) -> tuple[T, None]:
        k, part = numbered
        return jax.tree.map(jnp.add, total, f(part, jax.random.fold_in(rng, k))), None

    batches = jax.tree.map(divided, batch)
    shapes = jax.eval_shape(f, jax.tree.map(lambda x: x[0], batches), rng)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), batches))
    return total
