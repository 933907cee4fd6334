"""Constraints on captions: which words may not come next.

Each function returns a `Processor`, which every search accepts. Several may be combined in any
order, because each one only forbids words.

    B images   N beams or samples   T tokens at most   V vocabulary
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxcap.search.interface import MAX_UNROLLED, NEVER, Processor, SpecialTokens


def never(ids: Collection[int]) -> Processor:
    """Forbid these words.

    `<unk>`, `<pad>` and `<bos>` need not be listed; no search chooses them.
    """

    def process(
        log_probs: Float[Array, "B N V"], tokens: Int[Array, "B N T"], time: Int[Array, ""]
    ) -> Float[Array, "B N V"]:
        return jnp.where(_among(ids, log_probs.shape[-1]), NEVER, log_probs)

    return process


def no_repetition() -> Processor:
    """Forbid repeating the previous word."""

    def process(
        log_probs: Float[Array, "B N V"], tokens: Int[Array, "B N T"], time: Int[Array, ""]
    ) -> Float[Array, "B N V"]:
        last = _last(tokens, time)[..., None]  # (B, N, 1)
        again = (jnp.arange(log_probs.shape[-1]) == last) & (time > 0)
        return jnp.where(again, NEVER, log_probs)

    return process


def no_repeated_ngram(n: int, *, allowed: Collection[int] = ()) -> Processor:
    """Forbid repeating any n-gram (Paulus et al. 2017, section 2.5, with n = 3).

    https://arxiv.org/abs/1705.04304. n = 1 forbids repeating any word. Overlapping occurrences
    count: n = 2 allows "very very", but not "very very very".

    Args:
      allowed: words that may end an n-gram that is repeated, such as "a" with n = 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")

    def process(
        log_probs: Float[Array, "B N V"], tokens: Int[Array, "B N T"], time: Int[Array, ""]
    ) -> Float[Array, "B N V"]:
        size, places = log_probs.shape[-1], tokens.shape[-1] - n + 1
        if places < 1:
            return log_probs

        def compare(offset: Any, same: Any) -> Any:
            words = jax.lax.dynamic_slice_in_dim(tokens, offset, places, axis=-1)  # (B, N, places)
            last = jax.lax.dynamic_slice_in_dim(tokens, time - n + 1 + offset, 1, axis=-1)
            return same & (words == last)

        # Compare the last n − 1 words with those at every earlier place.
        same = jnp.broadcast_to(jnp.arange(places) + n - 1 < time, (*tokens.shape[:-1], places))
        same = jax.lax.fori_loop(0, n - 1, compare, same, unroll=MAX_UNROLLED)
        # Forbid the word that followed there; `size` is out of range, and dropped.
        followed = tokens[..., n - 1 :]
        barred = jnp.where(same & ~_among(allowed, size)[followed], followed, size)
        # Not `jnp.indices`: exported programs leave the batch size open.
        images, captions = jnp.arange(tokens.shape[0]), jnp.arange(tokens.shape[1])
        place = images[:, None, None], captions[:, None], barred
        return log_probs.at[place].set(NEVER, mode="drop")

    return process


def no_ending_on(
    ids: Collection[int],
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> Processor:
    """Forbid ending a caption on one of these words.

    `<eos>` may not follow them. They are also forbidden in the last two of the T places, so that
    a caption truncated for its length does not end on one either.
    """

    def process(
        log_probs: Float[Array, "B N V"], tokens: Int[Array, "B N T"], time: Int[Array, ""]
    ) -> Float[Array, "B N V"]:
        size = log_probs.shape[-1]
        among = _among(ids, size)  # (V,)
        bad = among[_last(tokens, time)] & (time > 0)  # (B, N)
        end = jnp.arange(size) == special.eos
        barred = (bad[..., None] & end) | (among & (time >= tokens.shape[-1] - 2))
        return jnp.where(barred, NEVER, log_probs)

    return process


def _among(ids: Collection[int], size: int) -> Bool[Array, "V"]:
    """Return which of `size` words are among `ids`."""
    outside = [i for i in ids if not 0 <= i < size]
    if outside:
        raise ValueError(f"word ids {outside} are out of range; the vocabulary has {size} words")
    among = np.zeros(size, bool)
    among[list(ids)] = True
    return jnp.asarray(among)


def _last(tokens: Int[Array, "B N T"], time: Int[Array, ""]) -> Int[Array, "B N"]:
    """Return the previous words; arbitrary if `time` is 0."""
    return jax.lax.dynamic_index_in_dim(tokens, jnp.maximum(time - 1, 0), axis=-1, keepdims=False)
