"""Beam search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array, Bool, Float

from jaxcap.search.beams import Choice, candidates, ranked, run_beams, select
from jaxcap.search.interface import Processor, SearchResult, SpecialTokens, StepFunction
from jaxcap.search.length import LengthNormalisation


def beam_search(
    step: StepFunction,
    carry: Any,
    *,
    beam_size: int,
    max_length: int,
    n_best: int | None = None,
    normalisation: LengthNormalisation = "exponent",
    length_penalty: float = 1.0,
    processors: Sequence[Processor] = (),
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """Keeps the `beam_size` likeliest beginnings, ended captions among them.

    An ended caption stays in the beam with its log probability for as long as no longer
    beginning is likelier. The search stops when all have ended; what has not ended after
    `max_length` tokens, `<eos>` among them, is cut there. One beam is greedy search; a beam as
    wide as the space of captions is exhaustive.

    Args:
      n_best: how many to return; all, if None.
      normalisation: how scores allow for length, and `length_penalty`, its exponent: see
        `normalise`. The search itself compares log probabilities.
      processors: constraints, applied in turn.

    Returns:
      The best captions of each image, all different, best first.
    """

    def choose(
        log_probs: Float[Array, "B N V"], scores: Float[Array, "B N"], done: Bool[Array, "B N"]
    ) -> Choice:
        # The best of all lie among the best of each beam: two small selections, not a large one.
        found = candidates(log_probs, scores, done, k=beam_size, special=special)
        return select(found, beam_size)

    beams = run_beams(
        step,
        carry,
        choose,
        begin=[0],
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
