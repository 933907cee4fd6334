"""What captions are compared by: the papers' words, or characters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxcap.metrics.graphemes import character_tokens
from jaxcap.metrics.tokenize import tokenize

ScoringUnits = Literal["words", "characters"]
"""`words` are those of every published score of English captions; `characters` are for scripts
that set no spaces between words."""

_SPLIT: dict[str, Callable[[str], list[str]]] = {"words": tokenize, "characters": character_tokens}


def splitter(units: ScoringUnits) -> Callable[[str], list[str]]:
    """The function that splits a caption into what BLEU, ROUGE-L and CIDEr-D count."""
    return _SPLIT[units]


def joined(tokens: list[str], units: ScoringUnits) -> str:
    """Tokens as a line to read."""
    return ("" if units == "characters" else " ").join(tokens)
