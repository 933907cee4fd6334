"""Penn Treebank tokens as coco-caption makes them, without Java.

Every published caption score is computed on the output of Stanford's `PTBTokenizer` (CoreNLP
3.4.1 with `-preserveLines -lowerCase`), from which coco-caption
(https://github.com/tylin/coco-caption) drops a list of punctuation tokens. `treebank` has that
program's rules; this scanner gives its tokens for every caption of Flickr8k (35,000), for every
string of tests/metrics/tokens.json (2,133), and for all but 5 of 900,000 strings made at random of
what is hardest. Known to differ are unfinished mark-up and lines of marks around a quotation mark
("';=a:", "<br c=\"@"), and one letter, capitalised like a file's ending, between the abbreviation
of a state and a mark ("vt.C,").

Line breaks of any kind count as spaces here. coco-caption goes out of step at all but "\\n": it
takes what follows one for the next image's caption.
"""

from __future__ import annotations

import functools
import re

from jaxcap.metrics.treebank import as_written, rules

# coco-caption's list also has -LRB- and its kin, but lower-casing comes first and makes them
# -lrb-: brackets therefore do stay in captions, as words, and so they do here.
_DROPPED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})


def _pairs(table: str) -> dict[str, str]:
    words = table.split()
    return dict(zip(words[::2], words[1::2], strict=True))


# Including what Windows has where Unicode has no printable characters.
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
# Inside a word a quotation mark stays as it is written.
_QUOTED = re.compile(r"[`‘’“”‹›«»‛‚„‟\x91-\x94]+|['’\x92](?:[smd]|re|ve|ll)|n.t", re.IGNORECASE)
_ENTITIES = _pairs("&amp; &  &lt; <  &gt; >  &quot; ''  &apos; '  &ndash; --  &mdash; --  &md; --")
_ENTITIES["&nbsp;"] = " "
_ENTITY = re.compile("|".join(_ENTITIES), re.IGNORECASE)
_FACE = re.compile(r"[<>]?[:;=][-o*']?[\[\]{@|\\]")

_BREAK = re.compile(r"[\n\v\f\r\u2028\u2029]")
_WIDE = re.compile("[\U00010000-\U0010ffff]")

# A word and perhaps a mark, with a space or nothing after it: no rule looks further, and there are
# few of them, so their tokens are kept.
_PLAIN = re.compile(r" ?([A-Za-z'-]+(?:[,;:!?]?(?= )|[,;:!?.]?\Z)|[,;:!?](?= )|[,;:!?.]\Z)")


def _normalise(token: str) -> str:
    """Writes a token as the Treebank does: brackets by name, quotes and dashes in ASCII."""
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


def _scan(text: str, position: int) -> tuple[list[str], int]:
    """The tokens of the rule that fits best at `position`, and where the next begin."""
    matches = [match for rule in rules() if (match := rule.match(text, position))]
    if not matches:
        return [], position + 1
    best = max(matches, key=re.Match.end)  # the first of equals
    token = best[1] if best.re in as_written() else _normalise(best[1])
    # A token that holds spaces (mark-up, telephone numbers) is several words to every metric.
    return [] if token in _DROPPED else token.lower().split(), best.end(1)


@functools.lru_cache(maxsize=1 << 16)
def _scan_all(text: str) -> tuple[str, ...]:
    found: list[str] = []
    position = 0
    while position < len(text):
        tokens, position = _scan(text, position)
        found += tokens
    return tuple(found)


def _surrogates(match: re.Match[str]) -> str:
    offset = ord(match[0]) - 0x10000
    return chr(0xD800 + (offset >> 10)) + chr(0xDC00 + (offset & 0x3FF))


def _joined(token: str) -> str:
    return token.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tokenize(caption: str) -> list[str]:
    """Splits a caption into lower-case Penn Treebank tokens, punctuation removed.

    "A man's dog isn't (really) running..." gives
    `a man 's dog is n't -lrb- really -rrb- running`.

    Args:
      caption: text as people or a model wrote it; line breaks count as spaces.

    Returns:
      The tokens; none for a caption that is empty or all punctuation.
    """
    text = _BREAK.sub(" ", caption)
    # Java's characters are of 16 bits, two of them for an emoji.
    text = _WIDE.sub(_surrogates, text)
    found: list[str] = []
    position = 0
    while position < len(text):
        if plain := _PLAIN.match(text, position):
            found += _scan_all(plain[1])
            position = plain.end()
        else:
            tokens, position = _scan(text, position)
            found += tokens
    return found if text.isascii() else [_joined(token) for token in found]
