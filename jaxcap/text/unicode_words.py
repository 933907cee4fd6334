"""Split text of any script into words that keep all their letters.

Words follow the word boundaries of Unicode Standard Annex 29 (https://www.unicode.org/reports/tr29/)
with one difference: runs of letters stay whole. By default, the annex would split scripts that set
no spaces (Thai, Burmese, Khmer, Chinese) at every letter, which needs a dictionary to do well.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any


@functools.cache
def _words() -> Any:
    import regex  # slow to import, and captions from known words need none of it

    part = r"[\p{L}\p{M}\p{N}\p{Join_Control}]"
    middle = r"[\p{WB=MidLetter}\p{WB=MidNumLet}\p{WB=MidNum}\p{WB=Single_Quote}]"
    # A word begins where a run of such characters does. To look for its letter from each of them
    # would take quadratic time.
    first = r"[\p{M}\p{Join_Control}]*+[\p{L}\p{N}]"
    return regex.compile(rf"(?<!{part}){first}{part}*+(?:{middle}{part}++)*+")


def unicode_words(text: str) -> list[str]:
    """Return the words of a text, without punctuation and symbols.

    "ಒಂದು ನಾಯಿ, ಓಡುತ್ತಿದೆ." gives ಒಂದು ನಾಯಿ ಓಡುತ್ತಿದೆ.
    """
    return _words().findall(text)


def is_punctuation(word: str) -> bool:
    """Return whether a word is only punctuation of any script, such as "।" or "؟"."""
    return all(unicodedata.category(character).startswith("P") for character in word)
