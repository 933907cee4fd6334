"""Diverse beam search (Vijayakumar et al. 2016), https://arxiv.org/abs/1610.02424."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxcap.search.beams import Choice, candidates, gather_beams, ranked, run_beams, select
from jaxcap.search.interface import Processor, SearchResult, SpecialTokens, StepFunction
from jaxcap.search.length import LengthNormalisation


def diverse_beam_search(
    step: StepFunction,
    carry: Any,
    *,
    beam_size: int,
    groups: int,
    diversity: float,
    max_length: int,
    n_best: int | None = None,
    normalisation: LengthNormalisation = "exponent",
    length_penalty: float = 1.0,
    processors: Sequence[Processor] = (),
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """Beam search in groups, each of which avoids the words of the groups before it.

    Equation 5 with Hamming diversity: at each time the groups choose in turn, and a group finds
    the score of a word lower by λ for every beam of earlier groups that has just chosen this word
    at this time. λ bears on the choice alone: log probabilities and scores are the model's own.
    One group is plain beam search.

    Args:
      beam_size: beams of all groups together, a multiple of `groups`.
      diversity: λ; in the paper 0.2 to 0.8 do well on captions.

    Returns:
      The captions of all groups as `beam_search` does, best first. Within a group all differ;
      two groups may still find the same one, if λ is small.
    """
    if groups < 1 or beam_size % groups:
        raise ValueError(f"{beam_size} beams cannot be divided into {groups} equal groups")
    size = beam_size // groups

    def choose(
        log_probs: Float[Array, "B N V"], scores: Float[Array, "B N"], done: Bool[Array, "B N"]
    ) -> Choice:
        batch, _, words = log_probs.shape
        image = jnp.arange(batch)[:, None]
        penalty = jnp.zeros((batch, words))
        choices = []
        for group in range(groups):
            first = group * size
            own = slice(first, first + size)
            found = candidates(
                log_probs[:, own] - penalty[:, None],
                scores[:, own],
                done[:, own],
                k=size,
                special=special,
                first=first,
            )
            gains = log_probs[image, found.parents, found.tokens]
            gains = jnp.where(gather_beams(done, found.parents), found.gains, gains)
            choices.append(select(found._replace(gains=gains), size))
            tokens = choices[-1].tokens
            # An ended caption goes on with <pad>, which no beam is kept from.
            chosen = jnp.where(tokens == special.pad, 0.0, diversity)
            penalty = penalty.at[image, tokens].add(chosen)
        return Choice(*(jnp.concatenate(each, axis=1) for each in zip(*choices, strict=True)))

    beams = run_beams(
        step,
        carry,
        choose,
        begin=[group * size for group in range(groups)],
        n=beam_size,
        max_length=max_length,
        processors=processors,
        special=special,
    )
    return ranked(
        beams,
        n=n_best or beam_size,
        normalisation=normalisation,
        length_penalty=length_penalty,
        special=special,
    )
