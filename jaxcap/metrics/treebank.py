"""The rules of CoreNLP's `PTBTokenizer`, version 3.4.1, as regular expressions.

Each rule was derived from the output of that program, which was tested with every character in
some sixty contexts and with every pair of short runs of letters around an apostrophe.

Like that program, the scanner takes the longest match: every rule is tried at each position, and
the earlier of two equally long matches wins. Group 1 of a rule is the token. The rest of the match
is lookahead, and counts for its length ("do" before "n't").
"""

from __future__ import annotations

import functools
import re

from jaxcap.metrics.treebank_characters import DIGIT, LETTER, MARK, SYMBOL

# Abbreviations keep their full stop, even at the end of a caption.
_ABBREVIATIONS = """
    mr mrs ms mme mlle messrs dr drs prof profs rev hon capt cmdr comdr lt lieut col gen maj sgt cpl
    pvt pfc spc sfc adm adj ens brig gov govs sen sens rep reps pres atty attys insp supt supts det
    asst assoc msgr adv st ste mt ft ave cie dept natl elec invt cf vs wm jos alex treas ph
"""
# These may end a sentence, so a letter after them starts a new token: "etc.b".
_FINAL = """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri
    esq jr sr bros blvd rd bldg co cos corp inc ltd plc bhd bancorp assn univ intl sys etc al ext
    est tel sq seq rt
    ala ariz calif colo conn ct dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn
    tenn va vt wis wisc wyo
"""
# These are abbreviations only if capitalised,
_CAPITALISED = "az ark del ill la mass miss ore pa tex wash"
# these when in capitals,
_NOT_CAPITALS = "mfg mtg"
_FINAL_NOT_CAPITALS = "ppte ppty pte ptes pty ptys"
# and these unless a number follows.
_NUMBERED = "art ca fig figs no nos op pp prop"

# These begin a sentence, so a letter before them is not an initial: "plan b. It", but "W. Bush".
_SENTENCE_STARTS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many
    More Now Once One Other Our She Since So Some Such That The Their Then There These They This We
    What When While Yet You
"""

_FILES = """
    bat bmp c cgi class cpp dll docx? exe gif gz h html? jar java jpe?g mov mp3 pdf php pl png ppt
    ps py sql tar txt wav x xml zip
"""


def _any(words: str) -> str:
    return "(?i:" + "|".join(words.split()) + ")"


def _any_capitalised(words: str) -> str:
    return "(?:" + "|".join(f"{w[0].upper()}(?i:{w[1:]})" for w in words.split()) + ")"


def _any_not_capitals(words: str) -> str:
    return "(?:" + "|".join(f"[{w[0]}{w[0].upper()}]{w[1:]}" for w in words.split()) + ")"


_SPACE = r"\t\n\x0b\x0c\r \u00a0\u2000-\u200a\u2028\u2029\u3000"
_APOSTROPHE = r"(?:['’\x92]|&apos;)"
_ANY_APOSTROPHE = r"(?:['’\x92`‘‛\x91]|&apos;)"
_HYPHEN = r"[-_\u058a\u2010\u2011]"
_SOFT = r"\xad"  # the soft hyphen, which words may contain
_L, _LD, _D = f"[{LETTER}]", f"[{LETTER}{DIGIT}]", f"[{DIGIT}]"
_NUMBER = rf"(?:{_D}*(?:[.,:\u066b\u066c{_SOFT}]{_D}+)+|{_D}+)"
_CLITIC = rf"{_APOSTROPHE}(?i:[smd]|re|ve|ll)"
_WORD = rf"[{LETTER}{MARK}{_SOFT}][{LETTER}{DIGIT}{MARK}{_SOFT}]*"
_WORDS = rf"{_WORD}(?:[.!?]{_WORD})*"
_PIECE = rf"(?:[dDoOlL]{_ANY_APOSTROPHE}{_LD})?{_LD}+"
_COMPOUND = rf"{_PIECE}(?:{_HYPHEN}{_PIECE})*"
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+\."
_LONG = rf"[A-Za-z0-9][A-Za-z0-9.,{_SOFT}]*(?:-(?:{_ACRONYM}|[A-Za-z0-9{_SOFT}]+))+"
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_FACE = r"\^x=~<>'"

_NAME = r"[A-Za-z][A-Za-z0-9:._-]*"
_ATTRIBUTE = rf"""{_NAME}(?:[ ]*=[ ]*(?:'[^'\r\n]*'|"[^"\r\n]*"))?"""
_MARKUP = rf"<(?:[!?][A-Za-z-][^>\r\n]*|/{_NAME}[ ]*|{_NAME}(?:[ ]+{_ATTRIBUTE})*[ ]*+(?:/[ ]*+)?)>"

# Characters that internet addresses do not contain, for use in "[^…]".
_NOT_IN_URL = r' \t\n\f\r"<>|()'
_NOT_IN_HOST = rf"{_NOT_IN_URL}.!?{{}},"
_NOT_IN_MAIL = rf"{_NOT_IN_URL}{{}}\u00a0"
_PATH = rf"/[^{_NOT_IN_URL}]+[^{_NOT_IN_HOST}-]"

_NOT_IN_BARE_HOST = rf"{_NOT_IN_URL}!?{{}},0-9A-Z`'$/:;=@\[\\\]^_-"
_WWW_HOST = rf"(?i:www)\.(?:[^{_NOT_IN_HOST}]+\.)+[A-Za-z]{{2,4}}"
_BARE_HOST = rf"(?:[^.{_NOT_IN_BARE_HOST}]+\.)+(?i:com|net|org|edu)"
_MAIL = (
    rf"((?:<|&lt;)?[A-Za-z0-9][^{_NOT_IN_MAIL}]*@(?:[^{_NOT_IN_MAIL}.]+\.)*[^{_NOT_IN_MAIL}.]+>?)"
)

_IN_FILE = rf"{LETTER}{DIGIT}{MARK}{_SOFT}"
_SUFFIX, _AFTER_FILE = rf"\.{_any(_FILES)}", rf"(?:[{_SPACE}.?!,]|$)"
_FILE = rf"([{_IN_FILE}]+(?:\.[{_IN_FILE}]+)*{_SUFFIX}){_AFTER_FILE}"
_BEFORE_MARKUP = rf"([A-Za-z])\.[{_SPACE}]+{_MARKUP}(?:[{_SPACE}]|$)"

_AS_WRITTEN = (
    # File names precede words, and words precede everything else.
    _FILE,
    rf"((?i:https?)://[^{_NOT_IN_URL}{{}}]+[^{_NOT_IN_HOST}-])",
    rf"({_WWW_HOST})",
    rf"({_WWW_HOST}{_PATH})",
    rf"({_BARE_HOST})",
    rf"({_BARE_HOST}{_PATH})",
    _MAIL,
    r"(@[A-Za-z_][A-Za-z_0-9]*)",
    rf"(#[{LETTER}{MARK}{_SOFT}]+)",
    rf"({_MARKUP})",
)
_PATTERNS = (
    # Spaces. A character that no rule matches is skipped.
    rf"([{_SPACE}]+)",
    # Two tokens in one word.
    r"((?i:can))(?i:not)",
    r"((?i:gon|wan))(?i:na)",
    r"((?i:got))(?i:ta)",
    r"((?i:gim|lem))(?i:me)",
    r"('(?i:t))(?i:is|was)",
    # Words: "dog", "5man"; a stop between letters joins them ("grass.He").
    rf"((?:{_any(_FINAL)}|{_any_capitalised(_CAPITALISED)}|{_any_not_capitals(_FINAL_NOT_CAPITALS)})\.)"
    r"[\s\S]?",
    r"((?i:ph|ed)\.[Dd]\.)[\s\S]?",
    rf"({_ACRONYM}|[A-Za-z]\.)",
    *_AS_WRITTEN[:1],
    rf"({_WORDS})",
    *_AS_WRITTEN[1:],
    rf"({_WORD}){_CLITIC}",
    # Entities: some are characters, some are words, and the rest is split.
    r"(&(?i:amp|lt|gt|quot|apos|nbsp);)",
    r"(&(?:ndash|mdash|MD|HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);)",
    rf"({_L}*&[aeiouAEIOU](?:acute|grave|uml);{_L}*)",
    # With hyphens ("t-shirt", "5-year-old", "5,000-foot", "jack-o'lantern", "non-U.S.").
    rf"({_COMPOUND})",
    rf"({_LONG})",
    rf"((?:{_COMPOUND}|{_WORDS})\.)[,;:]",
    rf"({_LONG}\.)[,;:]",
    # With slashes, at most two ("black/white").
    rf"({_SLASHED}(?:\\?/{_SLASHED}){{1,2}})",
    # Capitals with an ampersand ("AT&T"), and the languages.
    r"([A-Z]+(?:(?:(?i:&amp;)|[&+])[A-Z]+)+)",
    r"((?i:c\+\+|[cf]#))",
    # Contractions: "do n't", "man 's", "y' all".
    rf"([A-Za-z{_SOFT}]*[A-MO-Za-mo-z]{_SOFT}*)(?i:n{_ANY_APOSTROPHE}t)",
    rf"((?i:n{_ANY_APOSTROPHE}t)[A-Za-z]*)",
    rf"({_CLITIC})(?:[^A-Za-z]|$)",
    rf"((?i:y){_APOSTROPHE}){_L}",
    # Words that contain, begin with or end with an apostrophe.
    rf"([lLdDjJ]{_APOSTROPHE})",
    rf"({_APOSTROPHE}(?i:n{_APOSTROPHE}?|em|till?|cause))",
    rf"({_APOSTROPHE}[2-9]0s)",
    rf"({_APOSTROPHE}\d\d)(?:[{_SPACE}]|$)",
    rf"((?i:ma{_APOSTROPHE}am|c{_APOSTROPHE}(?:mon|est)|[eo]{_APOSTROPHE}er|you{_APOSTROPHE}all"
    rf"|s{_APOSTROPHE}mores|li{_APOSTROPHE}l|nor{_APOSTROPHE}easter|nat{_APOSTROPHE}l"
    rf"|ev{_APOSTROPHE}ry|cap{_APOSTROPHE}n|ol{_APOSTROPHE}|somethin{_APOSTROPHE}"
    rf"|dunkin{_APOSTROPHE}|o{_ANY_APOSTROPHE}o))",
    rf"([A-HJ-XZn]{_ANY_APOSTROPHE}{_L}{_L}+)",
    rf"({_L}+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z]{_L}*)",
    rf"(')[A-Za-z][^{_SPACE}]",  # opens a quotation
    rf"({_CLITIC})",
    # Abbreviations and acronyms: "St.", "U.S.", "plan b."
    rf"((?:{_any(_ABBREVIATIONS)}|{_any_not_capitals(_NOT_CAPITALS)})\.)",
    rf"({_any(_NUMBERED)}\.)[{_SPACE}]?{_D}",
    rf"([A-Za-z])\.[{_SPACE}]+(?:{'|'.join(_SENTENCE_STARTS.split())})(?:[{_SPACE}]|$)",
    _BEFORE_MARKUP,
    # Numbers: "5", "-5", "1,000.50", "10:30"; dates, fractions, telephones.
    rf"([-+]?{_NUMBER})",
    r"([0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{2,4})",
    r"((?:[0-9]{1,4}[- \u00a0])?[0-9]{1,4}(?:\\?/|\u2044)[0-9]{1,4})",
    r"((?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
    r"[0-9]{3,4}[- \u00a0]?[0-9]{3,5})",
    r"((?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5})",
    # Money and fractions.
    r"([A-Z]*\$)",
    r"([¢£¤€₠¼½¾⅓⅔\x80])",
    # Faces.
    r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])(?:[^A-Za-z0-9]|$)",
    rf"([{_FACE}-]_[{_FACE}-])",
    rf"(\([{_FACE}-][._]?[{_FACE}-]\)|\([{_FACE}]-[{_FACE}`]\))",
    # Punctuation: runs of some marks are one token, which is not dropped ("!!").
    r"(\.{3,5}|(?:\.[ \u00a0]){2,4}\.)",
    r"([\x85…])",
    r"(-(?i:[lr][rsc]b)-)",
    r"(-+|[–—―\x96\x97])",
    r"([!?]+)",
    r"(\*+|(?:\\\*){1,3}|\#+|@+|_+|<{1,2}|>{1,2})",
    r"([¹²³⁰⁴-⁹]+|[₀-₉]+)",
    r"([`‘’“”‹›«»‛‚„‟\x91-\x94]{1,2}|'')",
    # Any other printable character is a token.
    rf"([!-~{SYMBOL}])",
)


@functools.cache
def rules() -> tuple[re.Pattern[str], ...]:
    """Return the rules in order of precedence.

    They are compiled on first use, which takes 0.1 s that captioning alone does not need.
    """
    return tuple(re.compile(pattern) for pattern in _PATTERNS)


@functools.cache
def as_written() -> frozenset[re.Pattern[str]]:
    """Return the rules whose tokens (addresses, mark-up, file names) are not normalised."""
    return frozenset(rule for rule in rules() if rule.pattern in _AS_WRITTEN)


# Some rules read a long run before they need something, and would read it again from each of its
# characters. Each entry holds such rules and a pattern. Its group is what the rules need; its other
# alternatives are what they cannot pass on the way.
_NEEDS = (
    ((f"({_MARKUP})", _BEFORE_MARKUP), r"(>)"),
    ((_FILE,), rf"({_SUFFIX}{_AFTER_FILE})|[^.{_IN_FILE}]|\.\."),
    ((_MAIL,), rf"(@[^{_NOT_IN_MAIL}.])|[{_NOT_IN_URL.replace('<', '')}{{}}\u00a0]"),
    (
        (rf"({_LONG})", rf"({_LONG}\.)[,;:]"),
        rf"(-[A-Za-z0-9{_SOFT}])|[^A-Za-z0-9.,{_SOFT}]",
    ),
    (
        (rf"({_WWW_HOST})", rf"({_WWW_HOST}{_PATH})"),
        rf"(\.[A-Za-z]{{2}})|[{_NOT_IN_URL}!?{{}},]|\.\.",
    ),
    (
        (rf"({_BARE_HOST})", rf"({_BARE_HOST}{_PATH})"),
        rf"(\.(?i:com|net|org|edu))|[{_NOT_IN_BARE_HOST}]|\.\.",
    ),
)


@functools.cache
def needs() -> dict[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns that some rules need to find ahead.

    A rule cannot match at a position if the next match of its pattern has no group.
    """
    found = {pattern: need for patterns, need in _NEEDS for pattern in patterns}
    return {rule: re.compile(found[rule.pattern]) for rule in rules() if rule.pattern in found}
