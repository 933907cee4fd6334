"""Constrained beam search (Anderson et al. 2017), https://arxiv.org/abs/1612.00576."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxcap.search.beam_loop import Candidates, Choice, candidates, rank_beams, run_beams, select
from jaxcap.search.interface import NEVER, Processor, SearchResult, SpecialTokens, StepFunction
from jaxcap.search.ranking import Ranking


def constrained_beam_search(
    step: StepFunction,
    carry: Any,
    required: Int[Array, "B C M"],
    *,
    beam_size: int,
    max_length: int,
    ranking: Ranking = Ranking(),  # noqa: B008 (immutable)
    processors: Sequence[Processor] = (),
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """Search for captions that contain a word from each set of `required`.

    As in section 3.1, a finite state machine accepts these captions, and each of its states has
    its own beam. The state records which of the C sets are already covered, so there are 2^C
    states and 2^C · `beam_size` beams. A caption competes only with captions that cover the same
    sets, and required words are tried at every time, however improbable.

    Args:
      step: the step function, see `interface.StepFunction`.
      carry: its first carry, `[B, 1, …]`.
      required: C sets of at most M word ids for each image; the words of a set are alternatives
        (a disjunction). Special tokens and negative ids fill the places of words that a set does
        not have. A set without words requires nothing.
      beam_size: beams per state.
      ranking: how finished captions are ranked, and how many are returned.
      processors: constraints, applied in order.

    Returns:
      The best captions of each image, `satisfied` ones first. If there are too few of them (a
      required word is forbidden, or `max_length` is too small), captions that cover the most sets
      follow, marked as not `satisfied`.
    """
    words = _words(required, special)
    states = 1 << required.shape[1]
    state_of_beam = jnp.arange(states * beam_size) // beam_size
    # Whether a word covers a set that its beam has not covered yet, and the state it leads to.
    moves = (words.covers[:, None] & ~state_of_beam[:, None]) != 0  # (B, N, W)
    arrival = words.covers[:, None] | state_of_beam[:, None]

    def choose(
        log_probs: Float[Array, "B N V"], scores: Float[Array, "B N"], done: Bool[Array, "B N"]
    ) -> Choice:
        # Not `jnp.indices`: exported programs leave the batch size open.
        image, beam = jnp.arange(scores.shape[0]), jnp.arange(scores.shape[1])[:, None]
        place = image[:, None, None], beam, jnp.where(moves, words.ids[:, None], 0)
        staying = candidates(
            log_probs.at[place].min(jnp.where(moves, NEVER, jnp.inf)),
            scores,
            done,
            k=beam_size,
            special=special,
        )
        staying = Candidates(*(x.reshape(x.shape[0], states, -1) for x in staying))
        # Every state looks at the words of all beams; for the others' arrivals it pays NEVER.
        arrives = (moves & ~done[..., None])[:, None] & (
            arrival[:, None] == jnp.arange(states)[:, None, None]
        )  # (B, states, N, W)
        gains = jnp.where(arrives, log_probs[place][:, None], NEVER)
        moving = Candidates(
            totals=scores[:, None, :, None] + gains,
            parents=beam,
            tokens=words.ids[:, None, None],
            gains=gains,
        )
        found = Candidates(
            *(
                jnp.concatenate([x, jnp.broadcast_to(y, gains.shape).reshape(*x.shape[:2], -1)], 2)
                for x, y in zip(staying, moving, strict=True)
            )
        )
        chosen = jax.vmap(functools.partial(select, n=beam_size), 1, 1)(found)
        return Choice(*(x.reshape(scores.shape) for x in chosen))

    beams = run_beams(
        step,
        carry,
        choose,
        first_beams=[0],
        n=states * beam_size,
        max_length=max_length,
        processors=processors,
        special=special,
    )
    return rank_beams(
        beams,
        n=ranking.n_best or beam_size,
        ranking=ranking,
        satisfied=jax.lax.population_count(state_of_beam),
        required=words.sets,
        special=special,
    )


class _Words(NamedTuple):
    """The W = C · M required words of each image.

    Attributes:
      covers: a bit for each set that contains the word; 0 where there is no word, or the same
        word stands before.
      sets: how many sets have words.
    """

    ids: Int[Array, "B W"]
    covers: Int[Array, "B W"]
    sets: Int[Array, "B 1"]


def _words(required: Int[Array, "B C M"], special: SpecialTokens) -> _Words:
    batch, sets, forms = required.shape
    required = jnp.where(jnp.isin(required, jnp.array(special)), -1, required).astype(jnp.int32)
    exists = required >= 0
    ids = required.reshape(batch, -1)
    same = ids[:, :, None] == ids[:, None]  # (B, W, W)
    first = (jnp.tril(same, -1).sum(-1) == 0) & (ids >= 0)
    within = same.reshape(batch, sets * forms, sets, forms).any(-1)  # (B, W, C)
    covers = jnp.where(first, (within << jnp.arange(sets)).sum(-1), 0)
    return _Words(ids, covers, exists.any(-1).sum(-1, keepdims=True))
