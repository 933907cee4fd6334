"""Several models as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.search.interface import StepFunction


class AverageOutput(NamedTuple):
    """The mean of several outputs.

    Attributes:
      logits: log of the mean probabilities, `[B, N, V]`.
      weights: the first model's attention, `[B, N, P]`.
    """

    logits: Float[Array, "B N V"]
    weights: Float[Array, "B N P"]


def average(steps: Sequence[StepFunction]) -> StepFunction:
    """One step function from several over the same vocabulary: p = mean of pᵢ.

    Its carry is the tuple of theirs. Of the attention weights, whose numbers of positions may
    differ, it returns the first model's.
    """
    if not steps:
        raise ValueError("an ensemble needs at least one step function")

    def step(carries: Any, tokens: Int[Array, "B N"]) -> tuple[Any, AverageOutput]:
        pairs = [step(carry, tokens) for step, carry in zip(steps, carries, strict=True)]
        outputs = [output for _, output in pairs]
        log_probs = jnp.stack(
            [jax.nn.log_softmax(output.logits.astype(jnp.float32)) for output in outputs]
        )
        logits = jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(steps))
        return tuple(carry for carry, _ in pairs), AverageOutput(logits, outputs[0].weights)

    return step
