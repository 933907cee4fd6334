"""From step function to sentences: greedy, sampled, beam, diverse and constrained search.

Pure functions over any `step(carry, tokens) -> (carry, output)` where `output.logits` is
`[B, N, V]` and `output.weights` `[B, N, P]`; they know no model. The first carry is
`[B, 1, …]`, one per image, and is spread over the N beams or samples. `interface` says what
goes in and what comes out.
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
from jaxcap.search.length import LengthNormalisation, normalise
from jaxcap.search.next_word import length_between
from jaxcap.search.sampling import greedy_search, sample

__all__ = [
    "NEVER",
    "LengthNormalisation",
    "Output",
    "Processor",
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
