"""Constrained beam search (Anderson et al. 2017), https://arxiv.org/abs/1612.00576."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
    partial_beam_size: int | None = None,
    optional: int = 0,
    bonus: float = 0.0,
    ranking: Ranking = Ranking(),  # noqa: B008 (immutable)
    processors: Sequence[Processor] = (),
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """Search for captions that contain a word from each set of `required`.

    As in section 3.1, a finite state machine accepts these captions, and each of its states has
    its own beam. The state records which of the C sets are still to be covered, so there are 2^C
    states. A caption competes only with captions that cover the same sets, and required words are
    tried at every time, however improbable.

    Args:
      step: the step function, see `interface.StepFunction`.
      carry: its first carry, `[B, 1, …]`.
      required: C sets of at most M word ids for each image; the words of a set are alternatives
        (a disjunction). Special tokens and negative ids fill the places of words that a set does
        not have. A set without words requires nothing.
      beam_size: beams of the state that accepts captions, in which no set is left.
      partial_beam_size: beams of each other state; by default `beam_size`.
      optional: the number of sets, counted from the last one, that are wishes, not requirements.
      bonus: added to the score of a caption in the ranking for each wish that it fulfils.
      ranking: how finished captions are ranked, and how many are returned.
      processors: constraints, applied in order.

    Returns:
      The best captions of each image, `satisfied` ones first. If there are too few of them (a
      required word is forbidden, or `max_length` is too small), captions that cover the most sets
      follow, marked as not `satisfied`.
    """
    words = _words(required, special)
    others = (1 << required.shape[1]) - 1
    sizes = [beam_size, *[partial_beam_size or beam_size] * others]
    starts = np.cumsum([0, *sizes])
    # A state is the sets that are left, as bits.
    state_of_beam = jnp.asarray(np.repeat(np.arange(len(sizes)), sizes))
    # Whether a word covers a set that its beam has not covered yet, and the state it leads to.
    moves = (words.covers[:, None] & state_of_beam[:, None]) != 0  # (B, N, W)
    arrival = state_of_beam[:, None] & ~words.covers[:, None]

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
        gains = jnp.where(moves & ~done[..., None], log_probs[place], NEVER)
        moving = (scores[..., None] + gains, beam, words.ids[:, None], gains)
        found = Candidates(
            *(
                jnp.concatenate(
                    [x, jnp.broadcast_to(y, gains.shape).reshape(x.shape[0], -1)], axis=1
                )
                for x, y in zip(staying, moving, strict=True)
            )
        )
        states = jnp.concatenate(
            [state_of_beam[staying.parents], arrival.reshape(scores.shape[0], -1)], axis=1
        )

        def of_state(state: int) -> Choice:
            arrives = states == state
            totals, gains = (jnp.where(arrives, x, NEVER) for x in (found.totals, found.gains))
            return select(found._replace(totals=totals, gains=gains), sizes[state])

        chosen = map(of_state, range(len(sizes)))
        return Choice(*(jnp.concatenate(x, axis=1) for x in zip(*chosen, strict=True)))

    beams = run_beams(
        step,
        carry,
        choose,
        first_beams=jnp.asarray(starts)[words.left],
        n=len(state_of_beam),
        max_length=max_length,
        processors=processors,
        special=special,
    )
    necessary = (1 << (required.shape[1] - optional)) - 1
    return rank_beams(
        beams,
        n=ranking.n_best or beam_size,
        ranking=ranking,
        left=jax.lax.population_count(state_of_beam & necessary),
        costs=bonus * jax.lax.population_count(state_of_beam & ~necessary),
        special=special,
    )


class _Words(NamedTuple):
    """The W = C · M required words of each image.

    Attributes:
      covers: a bit for each set that contains the word; 0 where there is no word, or the same
        word stands before.
      left: a bit for each set that has words.
    """

    ids: Int[Array, "B W"]
    covers: Int[Array, "B W"]
    left: Int[Array, "B 1"]


def _words(required: Int[Array, "B C M"], special: SpecialTokens) -> _Words:
    batch, sets, forms = required.shape
    required = jnp.where(jnp.isin(required, jnp.array(special)), -1, required).astype(jnp.int32)
    exists = required >= 0
    ids = required.reshape(batch, -1)
    same = ids[:, :, None] == ids[:, None]  # (B, W, W)
    first = (jnp.tril(same, -1).sum(-1) == 0) & (ids >= 0)
    within = same.reshape(batch, sets * forms, sets, forms).any(-1)  # (B, W, C)
    bits = 1 << jnp.arange(sets)
    covers = jnp.where(first, (within * bits).sum(-1), 0)
    return _Words(ids, covers, (exists.any(-1) * bits).sum(-1, keepdims=True))
