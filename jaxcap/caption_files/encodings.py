"""Which encoding a text is in that is not UTF-8: a guess, to be shown to the person who knows."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Encoding:
    """An encoding, as people call it and as `iconv` does."""

    title: str
    iconv: str


# Python's codec, what it is called, and how the letters of its languages are named in Unicode; of
# those that fit equally well the first is taken.
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
    """What UTF-16 text is called for its byte order, with or without its mark; "" if it is none."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    start = data[: min(len(data), _SAMPLE) // 2 * 2]
    # Of a table or JSON at least the marks between captions are ASCII, in any language.
    for name, zeros, others in (("UTF-16LE", 1, 0), ("UTF-16BE", 0, 1)):
        count = start[zeros::2].count(0)
        if count > len(start) / 10 and start[others::2].count(0) < count / 10:
            return name
    return ""


def guess(data: bytes) -> Encoding:
    """The encoding in which a text reads most like one, of nine from before UTF-8."""
    # Whole lines: a cut might fall within a character.
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
    """How much of what is not ASCII in a text is of these scripts and stands as it does in them.

    Western letters stand singly among those of ASCII, others in runs without; capitals begin
    words; Japanese is written with kana, and Chinese, in which any two bytes may be a character,
    only believed where nothing else fits.
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
