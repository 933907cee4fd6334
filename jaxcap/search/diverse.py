"""Diverse beam search (Vijayakumar et al. 2016), https://arxiv.org/abs/1610.02424."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxcap.search.beam_loop import Choice, candidates, gather_beams, rank_beams, run_beams, select
from jaxcap.search.interface import (
    MAX_UNROLLED,
    Processor,
    SearchResult,
    SpecialTokens,
    StepFunction,
)
from jaxcap.search.ranking import Ranking


def diverse_beam_search(
    step: StepFunction,
    carry: Any,
    *,
    beam_size: int,
    groups: int,
    diversity: float,
    max_length: int,
    ranking: Ranking = Ranking(),  # noqa: B008 (immutable)
    processors: Sequence[Processor] = (),
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """Run beam search in groups that avoid each other's words.

    Equation 5 with Hamming diversity: at each time the groups choose in order, and a word costs λ
    for every beam of an earlier group that chose it at this time. λ affects only the choice; log
    probabilities and scores remain the model's own. One group is plain beam search.

    Args:
      step: the step function, see `interface.StepFunction`.
      carry: its first carry, `[B, 1, …]`.
      beam_size: beams of all groups together, a multiple of `groups`.
      diversity: λ; the paper finds 0.2 to 0.8 to work well for captions.
      ranking: how finished captions are ranked, and how many are returned.
      processors: constraints, applied in order.

    Returns:
      The captions of all groups, best first. Those of one group differ; two groups may find the
      same caption if λ is small.

    Raises:
      ValueError: `groups` does not divide `beam_size`.
    """
    if groups < 1 or beam_size % groups:
        raise ValueError(f"{beam_size} beams cannot be divided into {groups} equal groups")
    size = beam_size // groups

    def choose(
        log_probs: Float[Array, "B N V"], scores: Float[Array, "B N"], done: Bool[Array, "B N"]
    ) -> Choice:
        batch, _, words = log_probs.shape
        image = jnp.arange(batch)[:, None]

        def choose_group(penalty: Any, group: Any) -> tuple[Any, Choice]:
            first = group * size
            own = functools.partial(
                jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=size, axis=1
            )
            found = candidates(
                own(log_probs) - penalty[:, None],
                own(scores),
                own(done),
                k=size,
                special=special,
                first=first,
            )
            gains = log_probs[image, found.parents, found.tokens]
            gains = jnp.where(gather_beams(done, found.parents), found.gains, gains)
            choice = select(found._replace(gains=gains), size)
            # Finished captions continue with <pad>, which costs nothing.
            chosen = jnp.where(choice.tokens == special.pad, 0.0, diversity)
            return penalty.at[image, choice.tokens].add(chosen), choice

        _, choices = jax.lax.scan(
            choose_group, jnp.zeros((batch, words)), jnp.arange(groups), unroll=MAX_UNROLLED
        )
        return Choice(*(jnp.moveaxis(each, 0, 1).reshape(batch, beam_size) for each in choices))

    beams = run_beams(
        step,
        carry,
        choose,
        first_beams=[group * size for group in range(groups)],
        n=beam_size,
        max_length=max_length,
        processors=processors,
        special=special,
    )
    return rank_beams(
        beams,
        n=ranking.n_best or beam_size,
        ranking=ranking,
        special=special,
    )
