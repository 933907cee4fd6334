"""Average the predictions of several models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.search.interface import StepFunction, attention_weights


class AverageOutput(NamedTuple):
    """The averaged output of several models.

    Attributes:
      logits: the logarithm of the mean probabilities, `[B, N, V]`.
      weights: the first model's attention weights, `[B, N, P]`.
    """

    logits: Float[Array, "B N V"]
    weights: Float[Array, "B N P"]


def average(steps: Sequence[StepFunction]) -> StepFunction:
    """Combine step functions over the same vocabulary into one: p = mean of pᵢ.

    Its carry is the tuple of theirs. Attention weights, which may differ in the number of
    positions, are the first model's. A single step function keeps its own logits.
    """
    if not steps:
        raise ValueError("an ensemble needs at least one step function")

    def step(carries: Any, tokens: Int[Array, "B N"]) -> tuple[Any, Any]:
        pairs = [step(carry, tokens) for step, carry in zip(steps, carries, strict=True)]
        carries, outputs = tuple(carry for carry, _ in pairs), [output for _, output in pairs]
        if len(steps) == 1:
            return carries, outputs[0]
        log_probs = jnp.stack(
            [jax.nn.log_softmax(output.logits.astype(jnp.float32)) for output in outputs]
        )
        logits = jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(steps))
        return carries, AverageOutput(logits, attention_weights(outputs[0]))

    return step
