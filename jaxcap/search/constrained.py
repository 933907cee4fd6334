"""Constrained beam search (Anderson et al. 2017), https://arxiv.org/abs/1612.00576."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxcap.search.beams import Candidates, Choice, candidates, ranked, run_beams, select
from jaxcap.search.interface import NEVER, Processor, SearchResult, SpecialTokens, StepFunction
from jaxcap.search.length import LengthNormalisation


def constrained_beam_search(
    step: StepFunction,
    carry: Any,
    required: Sequence[Sequence[int]],
    *,
    beam_size: int,
    max_length: int,
    n_best: int | None = None,
    normalisation: LengthNormalisation = "exponent",
    length_penalty: float = 1.0,
    processors: Sequence[Processor] = (),
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """Beam search for captions that hold a word of each set of `required`.

    As in section 3.1, a finite state machine accepts these captions, and each of its states has
    a beam of its own. The machine here remembers which of the C sets a word has been seen of, so
    there are 2^C states, and 2^C · `beam_size` beams: a caption competes with those that have
    come equally far, and a required word is tried at every time, however unlikely it is.

    Args:
      required: sets of word ids, the words of a set being alternatives (a disjunction).
      beam_size: beams of each state.

    Returns:
      As `beam_search` does, first the captions that are `satisfied`. Where these are too few
      (a required word is ruled out, or `max_length` leaves no room), those follow, or stand
      alone, that satisfy most sets; they are marked as not `satisfied`.
    """
    if not required or not all(required):
        raise ValueError(f"each set needs at least one word: {required}")
    reserved = {special.pad, special.bos, special.eos, special.unk}
    if any(reserved & set(words) for words in required):
        raise ValueError(f"a caption holds none of the tokens {sorted(reserved)}: {required}")
    states = range(1 << len(required))
    slots = [slice(state * beam_size, (state + 1) * beam_size) for state in states]

    def choose(
        log_probs: Float[Array, "B N V"], scores: Float[Array, "B N"], done: Bool[Array, "B N"]
    ) -> Choice:
        bits = np.zeros(log_probs.shape[-1], np.int32)  # the sets that each word belongs to
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
        begin=[0],
        n=n,
        max_length=max_length,
        processors=processors,
        special=special,
    )
    satisfied = [state.bit_count() for state in states for _ in range(beam_size)]
    return ranked(
        beams,
        n=n_best or beam_size,
        normalisation=normalisation,
        length_penalty=length_penalty,
        satisfied=jnp.array(satisfied, jnp.int32),
        required=len(required),
        special=special,
    )
