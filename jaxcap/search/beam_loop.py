"""The parts that all beam searches share: the loop, and how beams are extended and ranked.

B images   N beams   T tokens at most   V vocabulary   P image positions
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxcap.search.interface import (
    NEVER,
    Processor,
    SearchResult,
    SpecialTokens,
    StepFunction,
    attention_weights,
    repeat_captions,
)
from jaxcap.search.next_word import next_log_probs
from jaxcap.search.ranking import Ranking, normalise
from jaxcap.search.top import largest


class Choice(NamedTuple):
    """The beams after a step: each one extends a parent by one token."""

    parents: Int[Array, "B N"]
    tokens: Int[Array, "B N"]
    gains: Float[Array, "B N"]


class Candidates(NamedTuple):
    """C possible continuations, and the total log probability of each."""

    totals: Float[Array, "B C"]
    parents: Int[Array, "B C"]
    tokens: Int[Array, "B C"]
    gains: Float[Array, "B C"]


class Beams(NamedTuple):
    """The state of the loop.

    Attributes:
      scores: log p of each beam; `NEVER` if the beam does not exist.
      done: whether the beam is finished or does not exist.
      slots: the beam in which each word's attention weights were computed. Reordering the weights
        at every step would be slow, so `rank_beams` gathers them once, at the end.
    """

    time: Int[Array, ""]
    carry: Any
    scores: Float[Array, "B N"]
    done: Bool[Array, "B N"]
    last: Int[Array, "B N"]
    tokens: Int[Array, "B N T"]
    gains: Float[Array, "B N T"]
    slots: Int[Array, "B N T"]
    weights: Float[Array, "T B N P"]


Choose = Callable[[Float[Array, "B N V"], Float[Array, "B N"], Bool[Array, "B N"]], Choice]
"""`choose(log_probs, scores, done)`: select the beams to continue, and their next tokens."""


def gather_beams(x: Any, index: Int[Array, "B K"]) -> Any:
    """Return `x[b, index[b, k]]` for an array `[B, N, …]`."""
    return jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)


def run_beams(
    step: StepFunction,
    carry: Any,
    choose: Choose,
    *,
    first_beams: Sequence[int] | Int[Array, "B F"],
    n: int,
    max_length: int,
    processors: Sequence[Processor],
    special: SpecialTokens,
) -> Beams:
    """Extend `n` beams until all are finished or have `max_length` tokens.

    Args:
      first_beams: the beams that exist at first, or those of each image. All beams start alike, and
        identical beams would stay identical.
    """
    if n < 1 or max_length < 1:
        raise ValueError(f"n_captions and max_length must be at least 1, not {n} and {max_length}")
    # All beams start alike, so one of them takes the first step for all.
    batch = jax.tree.leaves(carry)[0].shape[0]
    carry, output = step(carry, jnp.full((batch, 1), special.bos, jnp.int32))
    weights = attention_weights(output)
    unwritten = jnp.full((batch, n, max_length), special.pad, jnp.int32)
    log_probs = next_log_probs(
        output.logits, unwritten[:, :1], jnp.array(0), processors=processors, special=special
    )
    exists = (jnp.asarray(first_beams)[..., None] == jnp.arange(n)).any(axis=-2)
    exists = jnp.broadcast_to(exists, (batch, n))
    first = Beams(
        time=jnp.array(0),
        carry=repeat_captions(carry, n),
        scores=jnp.where(exists, 0.0, NEVER),
        done=~exists,
        last=unwritten[..., 0],
        tokens=unwritten,
        gains=jnp.zeros(unwritten.shape),
        slots=jnp.zeros(unwritten.shape, jnp.int32),
        weights=jnp.zeros((max_length, batch, n, weights.shape[-1]), weights.dtype),
    )

    def unfinished(beams: Beams) -> Any:
        return (beams.time < max_length) & ~beams.done.all()

    def grow(
        beams: Beams, carry: Any, log_probs: Float[Array, "B N V"], weights: Float[Array, "B N P"]
    ) -> Beams:
        time = beams.time
        parents, tokens, gains = choose(log_probs, beams.scores, beams.done)
        scores = gather_beams(beams.scores, parents) + gains
        exists = scores > NEVER / 2
        tokens = jnp.where(exists, tokens, special.pad)
        return Beams(
            time=time + 1,
            carry=jax.tree.map(lambda x: gather_beams(x, parents), carry),
            scores=jnp.where(exists, scores, NEVER),
            done=~exists | gather_beams(beams.done, parents) | (tokens == special.eos),
            last=tokens,
            tokens=gather_beams(beams.tokens, parents).at[:, :, time].set(tokens),
            gains=gather_beams(beams.gains, parents).at[:, :, time].set(gains),
            slots=gather_beams(beams.slots, parents).at[:, :, time].set(parents),
            weights=beams.weights.at[time].set(weights),
        )

    def extend(beams: Beams) -> Beams:
        carry, output = step(beams.carry, beams.last)
        log_probs = next_log_probs(
            output.logits, beams.tokens, beams.time, processors=processors, special=special
        )
        return grow(beams, carry, log_probs, attention_weights(output))

    first = grow(first, first.carry, repeat_captions(log_probs, n), repeat_captions(weights, n))
    return jax.lax.while_loop(unfinished, extend, first)


def candidates(
    log_probs: Float[Array, "B M V"],
    scores: Float[Array, "B M"],
    done: Bool[Array, "B M"],
    *,
    k: int,
    special: SpecialTokens,
    first: Int[Array, ""] | int = 0,
) -> Candidates:
    """Return the `k` best continuations of each of M beams.

    A finished caption has a single continuation, `<pad>`, at no cost.

    Args:
      first: the number of the first of these beams among all beams.
    """
    gains, tokens = largest(log_probs, min(k, log_probs.shape[-1]))
    stay = jnp.where(jnp.arange(gains.shape[-1]) == 0, 0.0, NEVER)
    gains = jnp.where(done[..., None], stay, gains)
    tokens = jnp.where(done[..., None], special.pad, tokens).astype(jnp.int32)
    beams = first + jnp.arange(scores.shape[1])[:, None]
    found = (scores[..., None] + gains, jnp.broadcast_to(beams, gains.shape), tokens, gains)
    return Candidates(*(x.reshape(x.shape[0], -1) for x in found))


def select(found: Candidates, n: int) -> Choice:
    """Return the `n` candidates with the largest totals."""
    _, best = jax.lax.top_k(found.totals, n)
    return Choice(*(gather_beams(x, best) for x in found[1:]))


def rank_beams(
    beams: Beams,
    *,
    n: int,
    ranking: Ranking,
    special: SpecialTokens,
    left: Int[Array, " N"] | None = None,
    costs: Float[Array, " N"] | float = 0.0,
) -> SearchResult:
    """Return the `n` best captions: those with the fewest requirements left, then by score.

    Args:
      left: how many requirements each beam does not satisfy; by default 0.
      costs: subtracted from the score of each beam in ranking.
    """
    if left is None:
        left = jnp.zeros(beams.scores.shape[1], jnp.int32)
    exists = beams.scores > NEVER / 2
    tokens = jnp.where(exists[..., None], beams.tokens, special.pad)
    written = tokens != special.pad  # (B, N, T)
    lengths = jnp.maximum(written.sum(axis=-1), 1)
    scores = normalise(beams.scores, lengths, ranking.normalisation, ranking.length_penalty)
    scores = jnp.where(exists, scores, NEVER)
    first = jnp.where(exists, left, len(left))
    order = jnp.lexsort((costs - scores, first), axis=-1)[:, :n]  # (B, n)
    written = gather_beams(written, order)
    # Weights were stored as [time, image, slot], slot being the beam that computed them.
    time = jnp.arange(tokens.shape[-1])
    image = jnp.arange(tokens.shape[0])[:, None, None]
    weights = beams.weights[time, image, gather_beams(beams.slots, order)]  # (B, n, T, P)
    return SearchResult(
        tokens=gather_beams(tokens, order),
        word_log_probs=jnp.where(written, gather_beams(beams.gains, order), 0.0),
        scores=gather_beams(scores, order),
        weights=jnp.where(written[..., None], weights, 0.0),
        satisfied=gather_beams(exists & (left == 0), order),
    )
