"""Unicode's normal forms of text from untrusted files, in linear time."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from typing import Literal

_LONG = 1000
"""Characters. The standard library sorts the marks of shorter texts in less than a millisecond."""

_MOST_MARKS = 30
_JOINER = "\u034f"


def normal_form(form: Literal["NFC", "NFD", "NFKC", "NFKD"], text: str) -> str:
    """Return the text in this normal form.

    The standard library takes quadratic time for a long run of combining marks. As in the
    Stream-Safe Text Format (https://www.unicode.org/reports/tr15/#Stream_Safe_Text_Format), a
    combining grapheme joiner is put after 30 marks in succession, which no language needs. Texts
    of up to 1,000 characters keep theirs.
    """
    if len(text) > _LONG and not text.isascii():
        text = "".join(_stream_safe(text))
    return unicodedata.normalize(form, text)


def _stream_safe(text: str) -> Iterator[str]:
    marks = 0
    for character in text:
        marks = marks + 1 if _is_sorted(character) else 0
        if marks > _MOST_MARKS:
            yield _JOINER
            marks = 1
        yield character


@functools.lru_cache(maxsize=1 << 14)
def _is_sorted(character: str) -> bool:
    """Return whether a character begins with a mark that normal forms put in order."""
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) > 0
