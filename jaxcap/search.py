"""From step function to sentences: greedy, sampled and beam search.

Pure functions over any `step(carry, tokens) -> (carry, output)` where `output.logits` is
`[B, N, V]` and `output.weights` `[B, N, P]`; they know no model. The first carry is
`[B, 1, …]`, one per image, and is spread over the N beams or samples.

    B images   N beams or samples   T words at most   V vocabulary   P image positions
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

NEVER = -1e9
"""Log probability of what must not be chosen; finite, so that differences stay defined."""


class Output(Protocol):
    """What a step function returns beside its carry."""

    @property
    def logits(self) -> Float[Array, "B N V"]: ...

    @property
    def weights(self) -> Float[Array, "B N P"]: ...


StepFunction = Callable[[Any, Int[Array, "B N"]], tuple[Any, Any]]


class SpecialTokens(NamedTuple):
    """Ids with a meaning of their own."""

    pad: int = 0
    bos: int = 1
    eos: int = 2
    unk: int = 3


class SearchResult(NamedTuple):
    """N captions of each image; from beam search, best first.

    Attributes:
      tokens: ids without `<bos>`, up to and with `<eos>`, then `<pad>`, `[B, N, T]`.
      word_log_probs: log p of each of them given the words before, 0 at `<pad>`, `[B, N, T]`.
      scores: what the captions are ranked by; beam search divides by length, `[B, N]`.
      weights: attention while each word was chosen, 0 at `<pad>`, `[B, N, T, P]`.
    """

    tokens: Int[Array, "B N T"]
    word_log_probs: Float[Array, "B N T"]
    scores: Float[Array, "B N"]
    weights: Float[Array, "B N T P"]

    @property
    def log_probs(self) -> Float[Array, "B N"]:
        """log p of the whole caption, `[B, N]`, in nats."""
        return self.word_log_probs.sum(axis=-1)


class _State(NamedTuple):
    time: Int[Array, ""]
    carry: Any
    last: Int[Array, "B N"]
    done: Any
    scores: Float[Array, "B N"]
    words: SearchResult


def _forbidden(special: SpecialTokens) -> tuple[int, int, int]:
    return special.pad, special.bos, special.unk


def _next_log_probs(logits: Float[Array, "B N V"], special: SpecialTokens) -> Float[Array, "B N V"]:
    """Log probabilities with the words that no caption holds ruled out.

    `<pad>`, `<bos>` and `<unk>` are removed after the softmax, so scores stay the model's.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return log_probs.at[..., jnp.array(_forbidden(special))].set(NEVER)


def _begin(
    step: StepFunction, carry: Any, n: int, max_length: int, special: SpecialTokens
) -> _State:
    if n < 1 or max_length < 1:
        raise ValueError(f"need at least one caption of one word, not {n} of {max_length}")
    carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (x.shape[0], n, *x.shape[2:])), carry)
    batch = jax.tree.leaves(carry)[0].shape[0]
    last = jnp.full((batch, n), special.bos, jnp.int32)
    positions = jax.eval_shape(step, carry, last)[1].weights.shape[-1]
    shape = (batch, n, max_length)
    words = SearchResult(
        tokens=jnp.full(shape, special.pad, jnp.int32),
        word_log_probs=jnp.zeros(shape),
        scores=jnp.zeros((batch, n)),
        weights=jnp.zeros((*shape, positions)),
    )
    done = jnp.zeros((batch, n), bool)
    return _State(jnp.array(0), carry, last, done, jnp.zeros((batch, n)), words)


def _write(words: SearchResult, time: Any, tokens: Any, log_probs: Any, weights: Any) -> Any:
    return words._replace(
        tokens=words.tokens.at[:, :, time].set(tokens),
        word_log_probs=words.word_log_probs.at[:, :, time].set(log_probs),
        weights=words.weights.at[:, :, time].set(weights),
    )


def _unroll(
    step: StepFunction,
    carry: Any,
    choose: Callable[[Float[Array, "B N V"], Int[Array, ""]], Int[Array, "B N"]],
    *,
    n: int,
    max_length: int,
    special: SpecialTokens,
) -> SearchResult:
    """One caption after the other's last word, each word by `choose(log_probs, time)`."""

    def unfinished(state: _State) -> Any:
        return (state.time < max_length) & ~state.done.all()

    def extend(state: _State) -> _State:
        carry, output = step(state.carry, state.last)
        log_probs = _next_log_probs(output.logits, special)
        chosen = choose(log_probs, state.time).astype(jnp.int32)
        gain = jnp.take_along_axis(log_probs, chosen[..., None], axis=-1)[..., 0]
        tokens = jnp.where(state.done, special.pad, chosen)
        gain = jnp.where(state.done, 0.0, gain)
        weights = jnp.where(state.done[..., None], 0.0, output.weights)
        words = _write(state.words, state.time, tokens, gain, weights)
        done = state.done | (tokens == special.eos)
        return _State(state.time + 1, carry, tokens, done, state.scores + gain, words)

    final = jax.lax.while_loop(unfinished, extend, _begin(step, carry, n, max_length, special))
    return final.words._replace(scores=final.scores)


def greedy_search(
    step: StepFunction,
    carry: Any,
    *,
    max_length: int,
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """The likeliest word each time: one caption per image."""
    return _unroll(
        step,
        carry,
        lambda log_probs, time: log_probs.argmax(axis=-1),
        n=1,
        max_length=max_length,
        special=special,
    )


def sample(
    step: StepFunction,
    carry: Any,
    rng: PRNGKeyArray,
    *,
    n: int,
    max_length: int,
    temperature: float = 1.0,
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """`n` captions per image, words drawn with p ∝ exp(log p / temperature).

    The log probabilities returned are the model's own, at temperature 1.
    """
    return _unroll(
        step,
        carry,
        lambda log_probs, time: jax.random.categorical(
            jax.random.fold_in(rng, time), log_probs / temperature
        ),
        n=n,
        max_length=max_length,
        special=special,
    )


def beam_search(
    step: StepFunction,
    carry: Any,
    *,
    beam_size: int,
    max_length: int,
    length_penalty: float = 1.0,
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """Keeps the `beam_size` likeliest beginnings, ended captions among them.

    An ended caption stays in the beam with its log probability for as long as no longer
    beginning is likelier. At the end captions are ranked by log p / length**length_penalty,
    the length counting `<eos>`. One beam is greedy search; a beam as wide as the space of
    captions is exhaustive.

    Returns:
      `beam_size` captions per image, best first.
    """
    begin = _begin(step, carry, beam_size, max_length, special)
    # All beams begin alike: only the first may be extended, or all would stay alike.
    first = jnp.where(jnp.arange(beam_size) == 0, 0.0, NEVER)
    begin = begin._replace(scores=jnp.broadcast_to(first, begin.scores.shape))

    def unfinished(state: _State) -> Any:
        return (state.time < max_length) & ~state.done.all()

    def extend(state: _State) -> _State:
        carry, output = step(state.carry, state.last)
        log_probs = _next_log_probs(output.logits, special)
        size = log_probs.shape[-1]
        if beam_size > size - len(_forbidden(special)):
            raise ValueError(
                f"a beam of {beam_size} is wider than the choice of words: {size}, of which "
                f"{len(_forbidden(special))} are never chosen"
            )
        # An ended caption goes on in one way only: with <pad>, at no cost.
        ended = jnp.full((size,), NEVER).at[special.pad].set(0.0)
        log_probs = jnp.where(state.done[..., None], ended, log_probs)
        # The best of all lie among the best of each beam: two small selections, not a large one.
        gains, tokens = jax.lax.top_k(log_probs, beam_size)  # (B, K, K)
        totals = (state.scores[..., None] + gains).reshape(gains.shape[0], -1)
        scores, best = jax.lax.top_k(totals, beam_size)  # (B, K)
        parent = best // beam_size

        def descend(x: Any) -> Any:
            index = parent.reshape(parent.shape + (1,) * (x.ndim - 2))
            return jnp.take_along_axis(x, index, axis=1)

        def pick(x: Any) -> Any:
            return jnp.take_along_axis(x.reshape(x.shape[0], -1), best, axis=1)

        tokens = pick(tokens).astype(jnp.int32)
        was_done = descend(state.done)
        weights = jnp.where(was_done[..., None], 0.0, descend(output.weights))
        words = _write(jax.tree.map(descend, state.words), state.time, tokens, pick(gains), weights)
        done = was_done | (tokens == special.eos)
        return _State(state.time + 1, jax.tree.map(descend, carry), tokens, done, scores, words)

    final = jax.lax.while_loop(unfinished, extend, begin)
    lengths = (final.words.tokens != special.pad).sum(axis=-1)
    scores = final.scores / jnp.maximum(lengths, 1) ** length_penalty
    order = jnp.argsort(-scores, axis=-1)
    words = final.words._replace(scores=scores)
    return jax.tree.map(
        lambda x: jnp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), axis=1),
        words,
    )
