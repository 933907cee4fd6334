"""What a reader takes for one character, and captions as a list of these.

A cluster is a base with all that is written onto it: accents, vowel signs, the joiners of an emoji.
It follows the extended grapheme clusters of Unicode Standard Annex 29
(https://www.unicode.org/reports/tr29/), with the standard library's character categories in the
place of its property tables. Known to differ: the joined consonants of rule GB9c stay apart (as
they were before Unicode 15.1), so do the few signs that come before what they belong to (GB9b), and
letters of Korean that make no syllable are joined by another rule.
"""

from __future__ import annotations

import functools
import unicodedata

_JOINER = "\u200d"

# What extends a cluster though its category is not that of a mark: both joiners, the vowels AM of
# Thai and Lao, halfwidth voicing marks, the skin colours of emoji, the tags of flags.
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
    """Whether a vowel or a final follows on an unfinished Korean syllable."""
    return "\u1160" <= part <= "\u11ff" and (
        "\u1100" <= syllable <= "\u11ff" or "\uac00" <= syllable <= "\ud7a3"
    )


def _is_half_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def graphemes(text: str) -> list[str]:
    """Splits a text into clusters; joined again they are the text.

    "e\\u0301t" (é in two parts, t) gives two, as does "👩‍👧🐕".
    """
    if text.isascii():
        return list(text)
    clusters: list[str] = []
    for character in text:
        if clusters and _continues(clusters[-1], character):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def _continues(cluster: str, character: str) -> bool:
    if _extends(character):
        # A line's end or another control character carries nothing.
        return unicodedata.category(cluster[-1]) != "Cc"
    if _goes_on(cluster[-1], character):
        return True
    if cluster[-1] == _JOINER:
        return _is_picture(cluster[0]) and _is_picture(character)
    # Two letters that stand for a country are one flag.
    return len(cluster) == 1 and _is_half_flag(cluster) and _is_half_flag(character)


def character_tokens(caption: str) -> list[str]:
    """A caption as scored by characters: lower-case clusters, without spaces and punctuation.

    For scripts that set no spaces between words, to which a word is a whole sentence. The two
    widths of a letter and its other forms of presentation are one (NFKC).

    Returns:
      The clusters; none for a caption that is empty or all punctuation.
    """
    normal = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", caption).lower())
    # Half a surrogate pair is no character, and could not be written down.
    clusters = graphemes(normal.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return [each for each in clusters if unicodedata.category(each[0])[0] not in "CPZ"]
