"""Constrained beam search (Anderson et al. 2017), https://arxiv.org/abs/1612.00576."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxcap.search.beam_loop import Candidates, Choice, candidates, rank_beams, run_beams, select
from jaxcap.search.interface import NEVER, Processor, SearchResult, SpecialTokens, StepFunction
from jaxcap.search.ranking import Ranking


def constrained_beam_search(
    step: StepFunction,
    carry: Any,
    required: Sequence[Sequence[int]],
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
      required: sets of word ids; the words of a set are alternatives (a disjunction).
      beam_size: beams per state.
      ranking: how finished captions are ranked, and how many are returned.
      processors: constraints, applied in order.

    Returns:
      The best captions of each image, `satisfied` ones first. If there are too few of them (a
      required word is forbidden, or `max_length` is too small), captions that cover the most sets
      follow, marked as not `satisfied`.

    Raises:
      ValueError: a set is empty or contains a special token.
    """
    if not required or not all(required):
        raise ValueError(f"required: each set needs at least one word, found {required}")
    reserved = {special.pad, special.bos, special.eos, special.unk}
    if any(reserved & set(words) for words in required):
        raise ValueError(f"required: {sorted(reserved)} are special tokens, found {required}")
    states = range(1 << len(required))
    slots = [slice(state * beam_size, (state + 1) * beam_size) for state in states]

    def choose(
        log_probs: Float[Array, "B N V"], scores: Float[Array, "B N"], done: Bool[Array, "B N"]
    ) -> Choice:
        bits = np.zeros(log_probs.shape[-1], np.int32)  # bit c: the word is in set c
        for number, words in enumerate(required):
            bits[list(words)] |= 1 << number
        choices = []
        for state in states:
            own = slots[state]
            staying = jnp.where((bits & ~state) != 0, NEVER, log_probs[:, own])
            found = [
                candidates(
                    staying,
                    scores[:, own],
                    done[:, own],
                    k=beam_size,
                    special=special,
                    first=own.start,
                )
            ]
            for before in range(state):
                beams, moving = slots[before], np.flatnonzero((bits | before) == state)
                if before & ~state == 0 and len(moving):
                    arriving = jnp.where(
                        done[:, beams, None], NEVER, log_probs[:, beams][..., moving]
                    )
                    moved = candidates(
                        arriving,
                        scores[:, beams],
                        jnp.zeros_like(done[:, beams]),
                        k=beam_size,
                        special=special,
                        first=beams.start,
                    )
                    found.append(
                        moved._replace(tokens=jnp.asarray(moving, jnp.int32)[moved.tokens])
                    )
            everything = Candidates(*(jnp.concatenate(x, axis=1) for x in zip(*found, strict=True)))
            choices.append(select(everything, beam_size))
        return Choice(*(jnp.concatenate(x, axis=1) for x in zip(*choices, strict=True)))

    n = beam_size * len(states)
    beams = run_beams(
        step,
        carry,
        choose,
        first_beams=[0],
        n=n,
        max_length=max_length,
        processors=processors,
        special=special,
    )
    satisfied = [state.bit_count() for state in states for _ in range(beam_size)]
    return rank_beams(
        beams,
        n=ranking.n_best or beam_size,
        ranking=ranking,
        satisfied=jnp.array(satisfied, jnp.int32),
        required=len(required),
        special=special,
    )
