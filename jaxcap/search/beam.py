"""Beam search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array, Bool, Float

from jaxcap.search.beam_loop import Choice, candidates, rank_beams, run_beams, select
from jaxcap.search.interface import Processor, SearchResult, SpecialTokens, StepFunction
from jaxcap.search.ranking import Ranking


def beam_search(
    step: StepFunction,
    carry: Any,
    *,
    beam_size: int,
    max_length: int,
    ranking: Ranking = Ranking(),  # noqa: B008 (immutable)
    processors: Sequence[Processor] = (),
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> SearchResult:
    """Search for the most probable captions, extending the `beam_size` best prefixes per image.

    A finished caption keeps its place until `beam_size` other candidates have a higher log
    probability. The search stops when every caption in the beam is finished; captions are
    truncated after `max_length` tokens, including `<eos>`. `beam_size=1` is greedy search; a
    beam that holds every prefix is exhaustive search.

    Args:
      step: the step function; see `interface.StepFunction`.
      carry: the initial carry, `[B, 1, …]`.
      beam_size: N, captions kept per image.
      ranking: how captions are ranked, and how many are returned.
      processors: constraints, applied in order.

    Returns:
      The best captions of each image, all different, best first.
    """

    def choose(
        log_probs: Float[Array, "B N V"], scores: Float[Array, "B N"], done: Bool[Array, "B N"]
    ) -> Choice:
        # The overall best are among the best of each beam, and two small top-k calls are faster
        # than one large one.
        found = candidates(log_probs, scores, done, k=beam_size, special=special)
        return select(found, beam_size)

    beams = run_beams(
        step,
        carry,
        choose,
        first_beams=[0],
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
