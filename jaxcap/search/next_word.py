"""Which words may come next, and how likely each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.search.interface import NEVER, Processor, SpecialTokens

# What the model itself holds impossible (−inf) is not ruled out, but chosen last.
_LEAST = -1e6


def next_log_probs(
    logits: Float[Array, "B N V"],
    tokens: Int[Array, "B N T"],
    time: Int[Array, ""],
    *,
    processors: Sequence[Processor],
    special: SpecialTokens,
) -> Float[Array, "B N V"]:
    """The model's log probabilities, with `NEVER` in the place of words that may not come next.

    Words are ruled out after the softmax, so that scores stay the model's own: `<pad>`, `<bos>`,
    `<unk>`, and what the processors say. Where they leave nothing, `<eos>` remains.
    """
    log_probs = jnp.maximum(jax.nn.log_softmax(logits.astype(jnp.float32)), _LEAST)
    ids = jnp.arange(logits.shape[-1])
    allowed = (ids != special.pad) & (ids != special.bos) & (ids != special.unk)
    processed = jnp.where(allowed, log_probs, NEVER)
    if not processors:
        return processed
    for process in processors:
        processed = process(processed, tokens, time)
    if len(processors) == 1 and isinstance(processors[0], _LengthBetween):
        return processed  # it always leaves something, and to ask costs a pass over all words
    nothing = processed.max(axis=-1, keepdims=True) <= NEVER / 2
    return jnp.where(nothing & (ids == special.eos), log_probs, processed)


@dataclass(frozen=True)
class _LengthBetween:
    minimum: int
    maximum: int
    special: SpecialTokens

    def __call__(
        self, log_probs: Float[Array, "B N V"], tokens: Int[Array, "B N T"], time: Int[Array, ""]
    ) -> Float[Array, "B N V"]:
        end = jnp.arange(log_probs.shape[-1]) == self.special.eos
        barred = jnp.where(end, time < self.minimum, time >= self.maximum)
        return jnp.where(barred, NEVER, log_probs)


def length_between(
    minimum: int,
    maximum: int,
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> Processor:
    """Captions of `minimum` to `maximum` words, `<eos>` not counted, all properly ended.

    A search needs `max_length = maximum + 1` tokens for them. A caption ends sooner than
    `minimum` only where other processors leave no word.
    """
    if not 0 <= minimum <= maximum:
        raise ValueError(f"no caption has at least {minimum} and at most {maximum} words")
    return _LengthBetween(minimum, maximum, special)
