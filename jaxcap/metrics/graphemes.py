"""Split text into grapheme clusters, which readers perceive as characters.

A cluster is a base character with its accents, vowel signs or emoji joiners. The rules follow the
extended grapheme clusters of Unicode Standard Annex 29 (https://www.unicode.org/reports/tr29/),
with the character categories of the standard library instead of its property tables. There are
three known differences. Conjoined consonants of rule GB9c remain separate, as before Unicode 15.1.
Prepended signs (GB9b) are separate. Korean letters that do not form a syllable follow another rule.
"""

from __future__ import annotations

import functools
import unicodedata
from itertools import pairwise

from jaxcap.files.normal_form import normal_form

_JOINER = "\u200d"

# These extend a cluster although their category is not Mark: both joiners, the vowels AM of Thai
# and Lao, halfwidth voicing marks, skin tones of emoji, and tags of flags.
_EXTENDS = frozenset(
    "\u200c\u200d\u0e33\u0eb3\uff9e\uff9f"
    + "".join(map(chr, range(0x1F3FB, 0x1F400)))
    + "".join(map(chr, range(0xE0020, 0xE0080)))
)


@functools.lru_cache(maxsize=1 << 14)
def _extends(character: str) -> bool:
    return character in _EXTENDS or unicodedata.category(character).startswith("M")


@functools.lru_cache(maxsize=1 << 14)
def _is_picture(character: str) -> bool:
    return unicodedata.category(character) == "So" and not _is_half_flag(character)


def _goes_on(syllable: str, part: str) -> bool:
    """Return whether `part` is a vowel or final that continues a Korean syllable."""
    return "\u1160" <= part <= "\u11ff" and (
        "\u1100" <= syllable <= "\u11ff" or "\uac00" <= syllable <= "\ud7a3"
    )


def _is_half_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def graphemes(text: str) -> list[str]:
    """Split a text into clusters, which join to the same text.

    "e\\u0301t" (decomposed é, t) has two clusters, as does "👩‍👧🐕".
    """
    if text.isascii():
        return list(text)
    starts = [0]
    for i in range(1, len(text)):
        if not _continues(text, starts[-1], i):
            starts.append(i)
    return [text[i:j] for i, j in pairwise([*starts, len(text)])]


def _continues(text: str, start: int, i: int) -> bool:
    """Return whether character i belongs to the cluster that begins at `start`."""
    last, character = text[i - 1], text[i]
    if _extends(character):
        # Control characters do not carry marks.
        return unicodedata.category(last) != "Cc"
    if _goes_on(last, character):
        return True
    if last == _JOINER:
        return _is_picture(text[start]) and _is_picture(character)
    # Two regional indicators are one flag.
    return i == start + 1 and _is_half_flag(last) and _is_half_flag(character)


def character_tokens(caption: str) -> list[str]:
    """Split a caption into lower-case clusters, without spaces and punctuation.

    This is for scripts without spaces between words, where a sentence would be a single word.
    Fullwidth and other compatibility forms are normalised (NFKC).

    Returns:
      The clusters; empty if the caption is empty or only punctuation.
    """
    normal = normal_form("NFKC", normal_form("NFKC", caption).lower())
    # A lone surrogate cannot be encoded; replace it.
    clusters = graphemes(normal.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return [each for each in clusters if unicodedata.category(each[0])[0] not in "CPZ"]
