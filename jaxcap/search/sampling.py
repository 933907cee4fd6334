"""Greedy search and sampling.

B images   N samples   T tokens at most   V vocabulary   P image positions
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from jaxcap.search.interface import (
    Processor,
    SearchResult,
    SpecialTokens,
    StepFunction,
    attention_weights,
    repeat_captions,
)
from jaxcap.search.next_word import next_log_probs
from jaxcap.search.top import largest


class _State(NamedTuple):
    time: Int[Array, ""]
    carry: Any
    last: Int[Array, "B N"]
    done: Bool[Array, "B N"]
    tokens: Int[Array, "B N T"]
    gains: Float[Array, "B N T"]
    weights: Float[Array, "B N T P"]


def _unroll(
    step: StepFunction,
    carry: Any,
    choose: Callable[[Float[Array, "B N V"], Int[Array, ""]], Int[Array, "B N"]],
    *,
    n: int,
    max_length: int,
    processors: Sequence[Processor],
    special: SpecialTokens,
) -> SearchResult:
    """Choose each word by `choose(log_probs, time)`, until all captions are finished."""
    if n < 1 or max_length < 1:
        raise ValueError(f"n and max_length must be at least 1, not {n} and {max_length}")
    carry = repeat_captions(carry, n)
    batch = jax.tree.leaves(carry)[0].shape[0]
    last = jnp.full((batch, n), special.bos, jnp.int32)
    weights = jax.eval_shape(lambda *now: attention_weights(step(*now)[1]), carry, last)
    shape = (batch, n, max_length)
    first = _State(
        time=jnp.array(0),
        carry=carry,
        last=last,
        done=jnp.zeros((batch, n), bool),
        tokens=jnp.full(shape, special.pad, jnp.int32),
        gains=jnp.zeros(shape),
        weights=jnp.zeros((*shape, weights.shape[-1]), weights.dtype),
    )

    def unfinished(state: _State) -> Any:
        return (state.time < max_length) & ~state.done.all()

    def extend(state: _State) -> _State:
        time = state.time
        carry, output = step(state.carry, state.last)
        log_probs = next_log_probs(
            output.logits, state.tokens, time, processors=processors, special=special
        )
        chosen = choose(log_probs, time).astype(jnp.int32)
        gains = jnp.take_along_axis(log_probs, chosen[..., None], axis=-1)[..., 0]
        tokens = jnp.where(state.done, special.pad, chosen)
        return _State(
            time=time + 1,
            carry=carry,
            last=tokens,
            done=state.done | (tokens == special.eos),
            tokens=state.tokens.at[:, :, time].set(tokens),
            gains=state.gains.at[:, :, time].set(jnp.where(state.done, 0.0, gains)),
            weights=state.weights.at[:, :, time].set(
                jnp.where(state.done[..., None], 0.0, attention_weights(output))
            ),
        )

    final = jax.lax.while_loop(unfinished, extend, first)
    return SearchResult(
        tokens=final.tokens,
        word_log_probs=final.gains,
        scores=final.gains.sum(axis=-1),
        weights=final.weights,
        satisfied=jnp.ones((batch, n), bool),
    )


def greedy_search(
    step: StepFunction,
    carry: Any,
    *,
    max_length: int,
    processors: Sequence[Processor] = (),
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """Choose the most probable word each time; the score of a caption is its log probability."""
    return _unroll(
        step,
        carry,
        lambda log_probs, time: log_probs.argmax(axis=-1),
        n=1,
        max_length=max_length,
        processors=processors,
        special=special,
    )


def sample(
    step: StepFunction,
    carry: Any,
    rngs: Key[Array, " B"],
    *,
    n: int,
    max_length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    processors: Sequence[Processor] = (),
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """Sample `n` captions per image, each word with p ∝ exp(log p / temperature).

    Sample i of an image depends only on i and the image's key: not on the other images of the
    batch, the batch size or n.

    Args:
      rngs: a key for each image, `[B]`.
      top_k: sample only from the `top_k` most probable words (Fan et al. 2018,
        https://arxiv.org/abs/1805.04833); from all words if None.
      top_p: sample only from the smallest set of words whose probabilities reach `top_p`, after
        temperature and `top_k` (nucleus sampling, Holtzman et al. 2020,
        https://arxiv.org/abs/1904.09751).

    Returns:
      Captions in the order in which they were sampled. Scores and log probabilities are the
      model's own, at temperature 1 and over all words.

    Raises:
      ValueError: `temperature`, `top_k` or `top_p` is out of range.
    """
    if temperature <= 0 or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
        raise ValueError(
            "expected temperature > 0, top_k >= 1 and 0 < top_p <= 1, "
            f"found {temperature}, {top_k} and {top_p}"
        )

    def choose(log_probs: Float[Array, "B N V"], time: Int[Array, ""]) -> Int[Array, "B N"]:
        words = log_probs.shape[-1]
        ids = None  # the candidate words' ids, if not simply 0 to V − 1
        if top_k is not None or top_p < 1:
            log_probs, ids = largest(log_probs, min(top_k or words, words))
        tempered = log_probs / temperature
        if top_p < 1:
            p = jax.nn.softmax(tempered)
            before = jnp.cumsum(p, axis=-1) - p  # total probability of more probable words
            tempered = jnp.where(before < top_p, tempered, -jnp.inf)

        def draw(rng: PRNGKeyArray, of_image: Float[Array, "N W"]) -> Int[Array, " N"]:
            numbers = jnp.arange(n)
            rng_of = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(rng, i), time))
            return jax.vmap(jax.random.categorical)(rng_of(numbers), of_image)

        drawn = jax.vmap(draw)(rngs, tempered)
        if ids is None:
            return drawn
        return jnp.take_along_axis(ids, drawn[..., None], axis=-1)[..., 0]

    return _unroll(
        step,
        carry,
        choose,
        n=n,
        max_length=max_length,
        processors=processors,
        special=special,
    )
