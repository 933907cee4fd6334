"""Guess the encoding of a text that is not UTF-8, to suggest it to the user."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Encoding:
    """The common name of an encoding, and its name in `iconv`."""

    title: str
    iconv: str


# Python codec, encoding, and the prefixes of its letters' Unicode names. The first of equal scores
# wins.
_CANDIDATES = (
    ("cp1252", Encoding("Windows-1252 or Latin-1 (Western)", "WINDOWS-1252"), ("LATIN",)),
    ("cp1251", Encoding("Windows-1251 (Cyrillic)", "WINDOWS-1251"), ("CYRILLIC",)),
    ("koi8_r", Encoding("KOI8-R (Cyrillic)", "KOI8-R"), ("CYRILLIC",)),
    ("cp1253", Encoding("Windows-1253 (Greek)", "WINDOWS-1253"), ("GREEK",)),
    ("cp932", Encoding("Shift JIS (Japanese)", "SHIFT_JIS"), ("HIRAGANA", "KATAKANA", "CJK")),
    ("euc_jp", Encoding("EUC-JP (Japanese)", "EUC-JP"), ("HIRAGANA", "KATAKANA", "CJK")),
    ("euc_kr", Encoding("EUC-KR (Korean)", "CP949"), ("HANGUL SYLLABLE",)),
    ("gb2312", Encoding("GB 18030 (Chinese)", "GB18030"), ("CJK",)),
    ("cp950", Encoding("Big5 (Chinese)", "BIG5"), ("CJK",)),
    ("gb18030", Encoding("GB 18030 (Chinese)", "GB18030"), ("CJK",)),
)
_WESTERN = _CANDIDATES[0][1]
_SAMPLE = 1 << 16


def utf16(data: bytes) -> str:
    """Return the name of the UTF-16 variant of a text, with or without a byte order mark, or ""."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    start = data[: min(len(data), _SAMPLE) // 2 * 2]
    # In any language, the delimiters of a table or of JSON are ASCII.
    for name, zeros, others in (("UTF-16LE", 1, 0), ("UTF-16BE", 0, 1)):
        count = start[zeros::2].count(0)
        if count > len(start) / 10 and start[others::2].count(0) < count / 10:
            return name
    return ""


def guess(data: bytes) -> Encoding:
    """Return the most plausible of ten legacy encodings."""
    # Sample whole lines, since a cut could split a character.
    sample = b""
    for line in data.split(b"\n"):
        if not line.isascii() and len(sample) < _SAMPLE:
            sample += line + b"\n"
    best, best_score = _WESTERN, 0.0
    for codec, encoding, scripts in _CANDIDATES:
        try:
            score = _likeness(sample.decode(codec), scripts)
        except UnicodeDecodeError:
            continue
        if score > best_score:
            best, best_score = encoding, score
    return best


def _likeness(text: str, scripts: tuple[str, ...]) -> float:
    """Score from 0 to 1 how well the non-ASCII characters of a text fit these scripts.

    Accented Latin letters occur between ASCII letters; letters of other scripts form runs of their
    own. Capitals start words. Japanese contains kana. Almost any two bytes decode as Chinese, so
    Chinese scores low and wins only if nothing else fits.
    """
    points, total, kana = 0.0, 0, 0
    for before, char, after in zip(" " + text, text, text[1:] + " ", strict=False):
        if char.isascii():
            continue
        total += 1
        name = unicodedata.name(char, "")
        if not name.startswith(scripts):
            points += 0.5 * (unicodedata.category(char)[0] == "P")
        elif name.startswith("CJK"):
            points += 0.6
        elif any(c.isalpha() and c.isascii() != (scripts == ("LATIN",)) for c in (before, after)):
            points += 0.25
        elif not (char.isupper() and before.isalpha()):
            points += 1.0
        kana += name.startswith(("HIRAGANA", "KATAKANA"))
    if not total or ("HIRAGANA" in scripts and kana < total / 8):
        return 0.0
    return points / total
