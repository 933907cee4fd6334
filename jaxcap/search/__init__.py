"""From step function to sentences: greedy, sampled, beam, diverse and constrained search.

Pure functions over any `step(carry, tokens) -> (carry, output)`, independent of the model.
`output.logits` is `[B, N, V]`, and `output.weights`, if any, is `[B, N, P]`. The first carry is
`[B, 1, …]`, one per image, and is repeated for the N beams or samples. `interface` defines the
inputs and outputs.
"""

from __future__ import annotations

from jaxcap.search.beam import beam_search
from jaxcap.search.constrained import constrained_beam_search
from jaxcap.search.diverse import diverse_beam_search
from jaxcap.search.ensemble import average
from jaxcap.search.interface import (
    NEVER,
    Output,
    Processor,
    SearchResult,
    SpecialTokens,
    StepFunction,
)
from jaxcap.search.next_word import length_between
from jaxcap.search.ranking import LengthNormalisation, Ranking, normalise
from jaxcap.search.sampling import greedy_search, sample

__all__ = [
    "NEVER",
    "LengthNormalisation",
    "Output",
    "Processor",
    "Ranking",
    "SearchResult",
    "SpecialTokens",
    "StepFunction",
    "average",
    "beam_search",
    "constrained_beam_search",
    "diverse_beam_search",
    "greedy_search",
    "length_between",
    "normalise",
    "sample",
]
