"""The log probabilities of the next word, and which words are allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxcap.search.interface import NEVER, Processor, SpecialTokens

# A word that the model considers impossible (−inf) is not forbidden, but chosen last.
_LEAST = -1e6


def next_log_probs(
    logits: Float[Array, "B N V"],
    tokens: Int[Array, "B N T"],
    time: Int[Array, ""],
    *,
    processors: Sequence[Processor],
    special: SpecialTokens,
) -> Float[Array, "B N V"]:
    """Return the model's log probabilities, with `NEVER` for forbidden words.

    Words are forbidden after the softmax, so that scores remain the model's own: `<pad>`, `<bos>`,
    `<unk>`, and those that the processors forbid. If no word is left, `<eos>` is allowed.
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
        return processed  # it never forbids all words, and checking costs a pass over them
    none_left = processed.max(axis=-1, keepdims=True) <= NEVER / 2
    return jnp.where(none_left & (ids == special.eos), log_probs, processed)


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
    """Allow only finished captions of `minimum` to `maximum` words, not counting `<eos>`.

    The search needs `max_length = maximum + 1` tokens. A caption is shorter than `minimum` only
    if other processors forbid every word.
    """
    if not 0 <= minimum <= maximum:
        raise ValueError(f"expected 0 <= minimum <= maximum, found {minimum} and {maximum}")
    return _LengthBetween(minimum, maximum, special)
