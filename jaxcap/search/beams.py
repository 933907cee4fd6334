"""What all beam searches share: the loop, and the way beams are extended and ranked.

B images   N beams   T words at most   V vocabulary   P image positions
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
    repeat_captions,
)
from jaxcap.search.length import LengthNormalisation, normalise
from jaxcap.search.next_word import next_log_probs
from jaxcap.search.top import largest


class Choice(NamedTuple):
    """The beams after a step: each extends a parent by a token."""

    parents: Int[Array, "B N"]
    tokens: Int[Array, "B N"]
    gains: Float[Array, "B N"]


class Candidates(NamedTuple):
    """Continuations to choose from, and their log probabilities after the choice."""

    totals: Float[Array, "B C"]
    parents: Int[Array, "B C"]
    tokens: Int[Array, "B C"]
    gains: Float[Array, "B C"]


class Beams(NamedTuple):
    """The state of the loop.

    Attributes:
      scores: log p of each beam; `NEVER` of one that does not exist.
      done: ended, or not existing.
      slots: the beam that each word's attention weights were computed in, for only words are
        moved with their beams at every step, and weights, which are many, once at the end.
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
"""`choose(log_probs, scores, done)`: which beams go on, and how."""


def gather_beams(x: Any, index: Int[Array, "B K"]) -> Any:
    """`x[b, index[b, k]]` for arrays `[B, N, …]`."""
    return jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)


def run_beams(
    step: StepFunction,
    carry: Any,
    choose: Choose,
    *,
    begin: Sequence[int],
    n: int,
    max_length: int,
    processors: Sequence[Processor],
    special: SpecialTokens,
) -> Beams:
    """Extends `n` beams until all have ended or hold `max_length` tokens.

    Args:
      begin: the beams that exist at first, for as they begin alike, others would stay alike.
    """
    if n < 1 or max_length < 1:
        raise ValueError(f"need at least one caption of one word, not {n} of {max_length}")
    # All beams begin alike, and one takes the first step for all.
    batch = jax.tree.leaves(carry)[0].shape[0]
    carry, output = step(carry, jnp.full((batch, 1), special.bos, jnp.int32))
    unwritten = jnp.full((batch, n, max_length), special.pad, jnp.int32)
    log_probs = next_log_probs(
        output.logits, unwritten[:, :1], jnp.array(0), processors=processors, special=special
    )
    exists = jnp.zeros((batch, n), bool).at[:, jnp.array(begin)].set(True)
    first = Beams(
        time=jnp.array(0),
        carry=repeat_captions(carry, n),
        scores=jnp.where(exists, 0.0, NEVER),
        done=~exists,
        last=unwritten[..., 0],
        tokens=unwritten,
        gains=jnp.zeros(unwritten.shape),
        slots=jnp.zeros(unwritten.shape, jnp.int32),
        weights=jnp.zeros((max_length, batch, n, output.weights.shape[-1]), output.weights.dtype),
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
        return grow(beams, carry, log_probs, output.weights)

    first = grow(
        first, first.carry, repeat_captions(log_probs, n), repeat_captions(output.weights, n)
    )
    return jax.lax.while_loop(unfinished, extend, first)


def candidates(
    log_probs: Float[Array, "B M V"],
    scores: Float[Array, "B M"],
    done: Bool[Array, "B M"],
    *,
    k: int,
    special: SpecialTokens,
    first: int = 0,
) -> Candidates:
    """The `k` best continuations of each of M beams, the one numbered `first` and those after it.

    An ended caption goes on in one way only: with `<pad>`, at no cost.
    """
    gains, tokens = largest(log_probs, min(k, log_probs.shape[-1]))
    stay = jnp.where(jnp.arange(gains.shape[-1]) == 0, 0.0, NEVER)
    gains = jnp.where(done[..., None], stay, gains)
    tokens = jnp.where(done[..., None], special.pad, tokens).astype(jnp.int32)
    beams = first + jnp.arange(scores.shape[1])[:, None]
    found = (scores[..., None] + gains, jnp.broadcast_to(beams, gains.shape), tokens, gains)
    return Candidates(*(x.reshape(x.shape[0], -1) for x in found))


def select(found: Candidates, n: int) -> Choice:
    """The `n` candidates with the largest totals."""
    _, best = jax.lax.top_k(found.totals, n)
    return Choice(*(gather_beams(x, best) for x in found[1:]))


def ranked(
    beams: Beams,
    *,
    n: int,
    normalisation: LengthNormalisation,
    length_penalty: float,
    special: SpecialTokens,
    satisfied: Int[Array, " N"] | None = None,
    required: int = 0,
) -> SearchResult:
    """The `n` best captions: by how many requirements they satisfy, then by their scores.

    Args:
      satisfied: of the `required` requirements those that each beam satisfies; none, if None.
    """
    if satisfied is None:
        satisfied = jnp.zeros(beams.scores.shape[1], jnp.int32)
    exists = beams.scores > NEVER / 2
    tokens = jnp.where(exists[..., None], beams.tokens, special.pad)
    written = tokens != special.pad  # (B, N, T)
    lengths = jnp.maximum(written.sum(axis=-1), 1)
    scores = normalise(beams.scores, lengths, normalisation, length_penalty)
    scores = jnp.where(exists, scores, NEVER)
    first = jnp.where(exists, -satisfied, 1)
    order = jnp.lexsort((-scores, first), axis=-1)[:, :n]  # (B, n)
    written = gather_beams(written, order)
    # The weights of the beam that computed them: [time, image, slot].
    time = jnp.arange(tokens.shape[-1])
    image = jnp.arange(tokens.shape[0])[:, None, None]
    weights = beams.weights[time, image, gather_beams(beams.slots, order)]  # (B, n, T, P)
    return SearchResult(
        tokens=gather_beams(tokens, order),
        word_log_probs=jnp.where(written, gather_beams(beams.gains, order), 0.0),
        scores=gather_beams(scores, order),
        weights=jnp.where(written[..., None], weights, 0.0),
        satisfied=gather_beams(exists & (satisfied == required), order),
    )
