"""Tokenise captions like coco-caption, into Penn Treebank tokens, without Java.

Every published caption score is computed on the output of Stanford's `PTBTokenizer` (CoreNLP
3.4.1 with `-preserveLines -lowerCase`), from which coco-caption
(https://github.com/tylin/coco-caption) drops a list of punctuation tokens. `treebank` holds the
rules of that program. This scanner returns the same tokens for every caption of Flickr8k (35,000),
every string of tests/metrics/tokens.json (2,133), and all but 5 of 900,000 random strings of
difficult pieces. Known differences are unfinished mark-up and runs of marks around a quotation mark
("';=a:", "<br c=\"@"), and a capital letter that is also a file suffix between the abbreviation of
a state and a mark ("vt.C,").

All line breaks count as spaces here. coco-caption misaligns captions at every line break but
"\\n": it takes the rest of the line for the caption of the next image.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from jaxcap.metrics.treebank import as_written, needs, rules

# coco-caption also lists -LRB- and other brackets, but lower-cases tokens first. So brackets remain
# as words such as -lrb-, and here too.
_DROPPED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})


def _pairs(table: str) -> dict[str, str]:
    words = table.split()
    return dict(zip(words[::2], words[1::2], strict=True))


# Includes the printable characters of Windows-1252 that are control characters in Unicode.
_CHARACTERS = str.maketrans(
    _pairs(
        """
        ( -LRB-  ) -RRB-  [ -LSB-  ] -RSB-  { -LCB-  } -RCB-  " ''  – --  — --  ― --  … ...
        ¢ cents  £ #  ¤ $  € $  ₠ $  ¼ 1/4  ½ 1/2  ¾ 3/4  ⅓ 1/3  ⅔ 2/3
        """
    )
    | {"\x80": "$", "\x85": "...", "\x96": "--", "\x97": "--", "\xad": ""}
)
_QUOTES = str.maketrans(
    _pairs("‘ `  ‛ `  ‹ `  ’ '  › '  “ ``  ” ''  « ``  » ''")
    | {"\x91": "`", "\x92": "'", "\x93": "``", "\x94": "''"}
)
# Quotation marks inside words are not normalised.
_QUOTED = re.compile(r"[`‘’“”‹›«»‛‚„‟\x91-\x94]+|['’\x92](?:[smd]|re|ve|ll)|n.t", re.IGNORECASE)
_ENTITIES = _pairs("&amp; &  &lt; <  &gt; >  &quot; ''  &apos; '  &ndash; --  &mdash; --  &md; --")
_ENTITIES["&nbsp;"] = " "
_ENTITY = re.compile("|".join(_ENTITIES), re.IGNORECASE)
_FACE = re.compile(r"[<>]?[:;=][-o*']?[\[\]{@|\\]")

_BREAK = re.compile(r"[\n\v\f\r\u2028\u2029]")
_WIDE = re.compile("[\U00010000-\U0010ffff]")

# A word with an optional mark, before a space or the end. No rule looks further, so the tokens of
# these common strings are cached.
_PLAIN = re.compile(r" ?([A-Za-z'-]+(?:[,;:!?]?(?= )|[,;:!?.]?\Z)|[,;:!?](?= )|[,;:!?.]\Z)")


def _normalise(token: str) -> str:
    """Normalise a token like the Treebank: names for brackets, ASCII quotes and dashes."""
    if re.fullmatch(r"\.[. \u00a0]+", token):
        return "..."
    if re.fullmatch(r"-{3,4}", token):
        return "--"
    if _FACE.fullmatch(token):
        return token
    if "&" in token:
        token = _ENTITY.sub(lambda match: _ENTITIES[match[0].lower()], token)
    if _QUOTED.fullmatch(token):
        token = token.translate(_QUOTES)
    return token.translate(_CHARACTERS)


class Scanner:
    """Scans a text for the tokens of CoreNLP, in time linear in its length.

    Attributes:
      text: the text, in Java's characters.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        # Pattern of a need to its next match: the start, and whether it has a group.
        self._next: dict[re.Pattern[str], tuple[int, bool]] = {}

    def scan(self, position: int) -> tuple[list[str], int]:
        """Return the tokens of the longest match at `position`, and the position after it."""
        matches = [m for rule in self.tried(position) if (m := rule.match(self.text, position))]
        if not matches:
            return [], position + 1
        best = max(matches, key=re.Match.end)  # the first of equals
        token = best[1] if best.re in as_written() else _normalise(best[1])
        # Metrics split tokens at spaces, which occur in mark-up and telephone numbers.
        return [] if token in _DROPPED else token.lower().split(), best.end(1)

    def tried(self, position: int) -> Iterator[re.Pattern[str]]:
        """Yield the rules that may match at `position`; see `needs`."""
        needed = needs()
        for rule in rules():
            if rule not in needed or self._is_ahead(needed[rule], position):
                yield rule

    def _is_ahead(self, need: re.Pattern[str], position: int) -> bool:
        start, found = self._next.get(need, (-1, False))
        if start < position:
            match = need.search(self.text, position)
            start, found = (
                (match.start(), match[1] is not None) if match else (len(self.text), False)
            )
            self._next[need] = start, found
        return found


@functools.lru_cache(maxsize=1 << 16)
def _scan_all(text: str) -> tuple[str, ...]:
    scanner = Scanner(text)
    found: list[str] = []
    position = 0
    while position < len(text):
        tokens, position = scanner.scan(position)
        found += tokens
    return tuple(found)


def _surrogates(match: re.Match[str]) -> str:
    offset = ord(match[0]) - 0x10000
    return chr(0xD800 + (offset >> 10)) + chr(0xDC00 + (offset & 0x3FF))


def _joined(token: str) -> str:
    return token.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _as_java(caption: str) -> str:
    """Return the caption in Java's 16-bit characters, two for an emoji, with spaces for breaks."""
    return _WIDE.sub(_surrogates, _BREAK.sub(" ", caption))


def tokenize_by_rules(caption: str) -> list[str]:
    """Tokenise like `tokenize`, but without its cache of common words."""
    return [_joined(token) for token in _scan_all.__wrapped__(_as_java(caption))]


def tokenize(caption: str) -> list[str]:
    """Split a caption into lower-case Penn Treebank tokens, without punctuation.

    "A man's dog isn't (really) running..." gives
    `a man 's dog is n't -lrb- really -rrb- running`.

    Args:
      caption: the text of a caption; line breaks count as spaces.

    Returns:
      The tokens; empty if the caption is empty or only punctuation.
    """
    text = _as_java(caption)
    scanner = Scanner(text)
    found: list[str] = []
    position = 0
    while position < len(text):
        if plain := _PLAIN.match(text, position):
            found += _scan_all(plain[1])
            position = plain.end()
        else:
            tokens, position = scanner.scan(position)
            found += tokens
    return found if text.isascii() else [_joined(token) for token in found]
