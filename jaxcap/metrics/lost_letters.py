"""Find text from which the scorer's tokenizer drops letters.

CoreNLP 3.4.1 knows the letters and marks of 2013, without some blocks. It splits words of Kannada,
Malayalam, Odia, Punjabi, Sinhala, Burmese, Khmer, Tibetan and others at every other sign, and drops
vowels. Joiners (U+200C, U+200D), which spell words of Persian and Sinhala, are dropped as well.
"""

from __future__ import annotations

import functools
from typing import Any

from jaxcap.files.normal_form import normal_form
from jaxcap.metrics.treebank_characters import DIGIT, LETTER, MARK


@functools.cache
def _lost() -> Any:
    import regex  # slow to import, and ASCII needs none of it

    known = f"{LETTER}{MARK}{DIGIT}"
    # A mark counts only within a word: emoji have marks as well. Looking from the letter takes
    # linear time; looking back from every mark would not.
    mark = rf"[\p{{M}}\p{{Join_Control}}--[{known}]]"
    return regex.compile(
        rf"[\p{{L}}\p{{Nd}}\p{{Nl}}--[{known}]]|\p{{L}}[\p{{M}}&&[{known}]]*+{mark}", regex.V1
    )


def loses_letters(text: str) -> bool:
    """Return whether `tokenize` drops a letter, a digit, or a mark or joiner within a word.

    "ಹುಲಿ" (tiger) and "ಹಾಲು" (milk) both lose their vowels and become equal.
    """
    return not text.isascii() and _lost().search(normal_form("NFC", text)) is not None
