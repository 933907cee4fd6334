"""The units that metrics count: words, as in papers, or characters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxcap.messages.errors import InputError
from jaxcap.metrics.graphemes import character_tokens
from jaxcap.metrics.tokenize import tokenize

ScoringUnits = Literal["words", "characters"]
"""Use `words` for English, as all published scores do, and `characters` for scripts without spaces
between words."""

_SPLIT: dict[str, Callable[[str], list[str]]] = {"words": tokenize, "characters": character_tokens}


def splitter(units: ScoringUnits) -> Callable[[str], list[str]]:
    """Return the function that splits a caption into these units.

    Raises:
      InputError: there are no such units.
    """
    if units not in _SPLIT:
        raise InputError(f"units is {units!r}; expected one of {', '.join(_SPLIT)}.")
    return _SPLIT[units]


def joined(tokens: list[str], units: ScoringUnits) -> str:
    """Join tokens into readable text."""
    return ("" if units == "characters" else " ").join(tokens)
