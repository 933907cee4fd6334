"""Penn Treebank tokens as coco-caption makes them, without Java.

Every published caption score is computed on the output of Stanford's `PTBTokenizer` (CoreNLP
3.4.1 with `-preserveLines -lowerCase`), from which coco-caption
(https://github.com/tylin/coco-caption) drops a list of punctuation tokens. The rules here were
found by giving that program text and reading what came back; they are a description of what it
does, not of how.

Like that program, this is a longest-match scanner: at each place every rule is tried, the one
that reaches furthest wins, and of two that reach equally far the earlier one does. A rule may
need to see what follows its token ("do" before "n't"); what it sees counts as its reach.
"""

from __future__ import annotations

import re

# coco-caption's list also has -LRB- and its kin, but lower-casing comes first and makes them
# -lrb-: brackets therefore do stay in captions, as words, and so they do here.
_DROPPED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})


def _pairs(table: str) -> dict[str, str]:
    words = table.split()
    return dict(zip(words[::2], words[1::2], strict=True))


_CHARACTERS = str.maketrans(
    _pairs(
        """
        ( -LRB-  ) -RRB-  [ -LSB-  ] -RSB-  { -LCB-  } -RCB-
        ‘ `  ‛ `  ‹ `  ’ '  › '  “ ``  ” ''  " ''  « ``  » ''  – --  — --  ― --  … ...
        ¢ cents  £ #  ¤ $  € $  ₠ $  ¼ 1/4  ½ 1/2  ¾ 3/4  ⅓ 1/3  ⅔ 2/3
        """
    )
)
_ENTITIES = _pairs("&amp; &  &lt; <  &gt; >  &quot; ''  &apos; '  &ndash; --  &mdash; --")

# Abbreviations keep their full stop, in the middle of a caption and at its end.
_ABBREVIATIONS = """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri
    mr mrs ms mme mlle messrs dr drs prof profs rev hon esq jr sr bros capt cmdr comdr lt lieut col
    gen maj sgt cpl pvt pfc spc sfc adm adj ens brig gov govs sen sens rep reps pres atty attys insp
    supt supts det asst assoc msgr adv st ste mt ft ave blvd rd bldg co cos corp inc ltd plc pte pty
    ppte ppty ptes ptys bhd cie bancorp assn dept univ intl natl sys elec mfg mtg invt etc al cf vs
    ext est tel sq seq wm jos alex treas ph rt
    ala ariz calif colo conn ct dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn
    tenn va vt wis wisc wyo
"""
# These are words too when in lower case.
_CAPITALISED = "az ark del ill la mass miss ore pa tex wash"
# These are abbreviations only before a number.
_NUMBERED = "art ca fig figs no nos op pp prop"

# These begin a sentence, and before them a letter is not an initial: "plan b. It", "W. Bush".
_SENTENCE_STARTS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many
    More Now Once One Other Our She Since So Some Such That The Their Then There These They This We
    What When While Yet You
"""

# How many characters of a word are a token of their own: "can not", "'t was".
_SPLIT_IN_TWO = dict.fromkeys(["cannot", "gonna", "gotta", "wanna", "gimme", "lemme"], 3)
_SPLIT_IN_TWO |= dict.fromkeys(["'tis", "'twas"], 2)

_APOSTROPHE = r"(?:['’]|&apos;)"
_LETTER = r"[^\W\d_²³¹⁰-₉¼-¾⅐-ⅿ①-⓿]"  # any alphabet's, but not what Python counts as a numeral
_ACCENT = r"[\u0300-\u036f]"
_LETTER_OR_DIGIT = rf"(?:{_LETTER}|\d)"
_WORD = rf"{_LETTER}(?:{_LETTER_OR_DIGIT}|{_ACCENT})*"
_PIECE = rf"{_LETTER_OR_DIGIT}+"
_MARKUP = r"</?[A-Za-z][^<>]*>"
_NUMBER = r"(?:\d*(?:[.,:]\d+)+|\d+)"


def _any(words: str) -> str:
    return "(?i:" + "|".join(words.split()) + ")"


def _any_capitalised(words: str) -> str:
    return "(?:" + "|".join(f"{w[0].upper()}(?i:{w[1:]})" for w in words.split()) + ")"


# Group 1 is the token; what a rule matches after it is what it needs to see there.
_RULES = tuple(
    re.compile(pattern)
    for pattern in (
        # Words: "dog", "5man"; a stop between letters joins them ("grass.He").
        rf"({_WORD}(?:[.!?]{_WORD})*)",
        rf"({_PIECE})",
        # With hyphens ("t-shirt", "5-year-old", "5,000-foot", "jack-o'lantern", "non-U.S.").
        rf"({_LETTER_OR_DIGIT}(?:{_LETTER_OR_DIGIT}|[.,])*(?:-(?:[dol]{_APOSTROPHE})?{_PIECE})+)",
        rf"([dDoOlLJ]{_APOSTROPHE}{_PIECE}(?:-{_PIECE})*)",
        r"(non-U\.S\.)",
        # With slashes, at most two ("black/white"), or underscores.
        r"([A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2})",
        r"([A-Za-z0-9]+(?:_[A-Za-z0-9]+)+)",
        # Capitals with an ampersand ("AT&T"), and the languages.
        r"([A-Z]+(?:(?:&amp;|[&+])[A-Z]+)+)",
        r"((?i:c\+\+|[cf]#))",
        # Contractions: "do n't", "man 's", "y' all".
        rf"({_LETTER}*[A-MO-Za-mo-z])(?i:n(?:{_APOSTROPHE}|[`‘‛])t)",
        rf"((?i:n(?:{_APOSTROPHE}|[`‘‛])t)[A-Za-z]*)",
        rf"({_APOSTROPHE}(?i:[smd]|re|ve|ll))(?![A-Za-z])",
        r"(’(?i:[smd]|re|ve|ll))",  # only a straight apostrophe can open a quotation
        rf"((?i:y){_APOSTROPHE})[A-Za-z]",
        rf"(j{_APOSTROPHE})[a-z]",
        # Words that hold, begin or end with an apostrophe of their own.
        rf"({_APOSTROPHE}(?i:n|em|till?|cause))(?![a-z])",
        rf"({_APOSTROPHE}(?i:n{_APOSTROPHE}|tis|twas))",
        rf"({_APOSTROPHE}(?:[2-9]0s|\d\d))(?=[\s.,;:!?)]|$)",
        rf"((?i:ma{_APOSTROPHE}am|[ceno]{_APOSTROPHE}(?:mon|er)|ne{_APOSTROPHE}er|you{_APOSTROPHE}all"
        rf"|s{_APOSTROPHE}mores|li{_APOSTROPHE}l|nor{_APOSTROPHE}easter|nat{_APOSTROPHE}l"
        rf"|ev{_APOSTROPHE}ry|cap{_APOSTROPHE}n|ol{_APOSTROPHE}|somethin{_APOSTROPHE}"
        rf"|dunkin{_APOSTROPHE}|qu{_APOSTROPHE}[a-z]+))(?![a-z])",
        # Abbreviations and acronyms: "St.", "U.S.", "plan b."
        rf"({_any(_ABBREVIATIONS)}\.)",
        rf"({_any_capitalised(_CAPITALISED)}\.)",
        rf"({_any(_NUMBERED)}\.)\s?\d",
        r"([A-Za-z](?:\.[A-Za-z])*\.)",
        rf"([A-Za-z])\.\s+(?:{'|'.join(_SENTENCE_STARTS.split())})(?=\s|$)",
        r"((?i:ph|ed)\.[Dd]\.)",
        # Numbers: "5", "-5", "1,000.50", "10:30", "3/4"; a telephone's area code.
        rf"([-+]?{_NUMBER})",
        r"(\(\d{2,3}\))[ \u00a0]?\d{3,4}[- \u00a0]?\d{3,5}",
        # Money and fractions.
        r"([A-Z]*\$)",
        r"([¢£¤€₠¼½¾⅓⅔])",
        # Addresses of the net.
        r"""(https?://[^\s"<>|()]+[^\s"<>|.!?(){},-])""",
        r"""((?:www\.(?:[^\s"<>|.!?(){},]+\.)+[A-Za-z]{2,4}"""
        r"""|(?:[^\s"'`<>|.!?(){},$/]+\.)+(?:com|net|org|edu))(?:/[^\s"<>|()]+[^\s"<>|.!?(){},-])?)""",
        r"""([A-Za-z0-9][^\s"<>|()]*@(?:[^\s"<>|(){}.]+\.)*[^\s"<>|(){}.,;:!?']+)""",
        r"(@[A-Za-z_]\w*|#[A-Za-z_]+)",
        # Mark-up, entities, and faces.
        rf"({_MARKUP})",
        r"(&(?:amp|lt|gt|quot|apos|ndash|mdash);)",
        r"(&#?\w+;)",
        r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])(?![A-Za-z0-9])",
        r"(\^_\^)",
        # Punctuation: runs of some marks are one token, and then are not dropped ("!!").
        r"(\.{3,5}|(?:\.[ \u00a0]){2,4}\.)",
        r"(-(?i:[lr][rsc]b)-)",
        r"(-+)",
        r"([!?]+)",
        r"(\*+|\#+|@+|_+|<+|>+)",
        r"(''|``)",
        # Anything else printable is a token of one character.
        r"(\S)",
    )
)

_PLAIN_WORD = re.compile(r"[A-Za-z]+(?=\s|$)")
_SPACE = re.compile(r"\s*")
_ZERO_WIDTH = "\u200b\u200c\u200d\u200e\u200f\ufeff"


def _unknown(character: str) -> bool:
    """Whether the tokeniser passes over a character: emoji, their selectors, zero-width spaces."""
    return character > "\uffff" or "\ufe00" <= character <= "\ufe0f" or character in _ZERO_WIDTH


def _normalise(token: str) -> str:
    """Writes a token as the Treebank does: brackets by name, quotes and dashes in ASCII."""
    if re.fullmatch(r"\.[. \u00a0]+", token):
        return "..."
    if re.fullmatch(r"-{3,4}", token):
        return "--"
    if re.fullmatch(_MARKUP, token):
        return token.lower()
    for entity, character in _ENTITIES.items():
        if entity in token:
            token = token.replace(entity, character)
    return token.translate(_CHARACTERS).lower()


def _next_token(text: str, start: int) -> str:
    """The token that begins at `start`, as written."""
    # Most words are plain, and no rule reaches beyond one that a space follows.
    if (plain := _PLAIN_WORD.match(text, start)) is not None:
        token = plain[0]
    else:
        matches = [match for rule in _RULES if (match := rule.match(text, start))]
        token = max(matches, key=re.Match.end)[1]  # the first of equals
    split = _SPLIT_IN_TWO.get(token.lower().replace("’", "'"))
    if split and not text.startswith(("'", "’"), start + len(token)):
        return token[:split]
    return token


def tokenize(caption: str) -> list[str]:
    """Splits a caption into lower-case Penn Treebank tokens, punctuation removed.

    "A man's dog isn't (really) running..." gives
    `a man 's dog is n't -lrb- really -rrb- running`.

    Args:
      caption: text as people or a model wrote it; line breaks count as spaces.

    Returns:
      The tokens; none for a caption that is empty or all punctuation.
    """
    caption = caption.replace("\u00ad", "").replace("&nbsp;", " ")  # soft hyphens join words
    tokens: list[str] = []
    position = _SPACE.match(caption).end()  # type: ignore[union-attr]
    while position < len(caption):
        if _unknown(caption[position]):
            written = caption[position]
        else:
            written = _next_token(caption, position)
            # A token that holds spaces (mark-up) is several words to every metric.
            tokens += [t for t in _normalise(written).split() if t not in _DROPPED]
        position = _SPACE.match(caption, position + len(written)).end()  # type: ignore[union-attr]
    return tokens
