"""Warn about properties of captions and references that make scores incomparable."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from jaxcap.metrics.lost_letters import loses_letters
from jaxcap.scoring.pairing import count_range

_NAMES = r"s|end|eos|start|sos|bos|go|pad|unk|unknown|sep|cls|mask"
_SPECIAL = re.compile(
    rf"</?(?:{_NAMES})>|\[(?:{_NAMES})\]|<\|\w+\|>|\b(?:start|begin|end)seq\b|\b(?:eos|unk)\b",
    re.IGNORECASE,
)
"""Special tokens: start, end, unknown, padding and the like."""
_UNKNOWN = re.compile(r"<unk(?:nown)?>|\[unk\]|\bunk\b", re.IGNORECASE)
_SPACED_STOP = re.compile(r"\s[.!?]\s*$")
_MARKS = re.compile(r"[.,;:!?\"()]")
_MOST = 0.9


def share(part: int, whole: int) -> str:
    """Format a share such as "3 of 12 (25.0 %)"."""
    return f"{part} of {whole} ({100 * part / whole:.1f} %)"


def of_captions(captions: Sequence[str], where: str) -> list[str]:
    """Warn about predictions that are empty or contain special tokens.

    Args:
      captions: the predictions.
      where: the file, for the warnings.
    """
    warnings = []
    tokens = Counter(token for text in captions for token in set(_SPECIAL.findall(text)))
    if tokens:
        affected = sum(_SPECIAL.search(text) is not None for text in captions)
        kinds = ", ".join(f"'{token}'" for token, _ in tokens.most_common(3))
        warnings.append(
            f"{where}: {share(affected, len(captions))} captions hold start, end or unknown "
            f"tokens, such as {kinds}; they are scored as words. Remove start and end tokens"
        )
    if empty := sum(not text.strip() for text in captions):
        warnings.append(f"{where}: {share(empty, len(captions))} captions are empty and score 0")
    return warnings


def of_references(
    references: Sequence[Sequence[str]], where: str, *, tokenised: bool = False
) -> list[str]:
    """Warn about references that are empty or preprocessed, or whose number varies.

    Args:
      references: the references of each image.
      where: the file, for the warnings.
      tokenised: whether the file is known to hold tokens instead of sentences.
    """
    warnings = []
    low, high = count_range(references)
    if low != high:
        counts = Counter(len(each) for each in references)
        usual = counts.most_common(1)[0]
        warnings.append(
            f"{where}: {low} to {high} references per image ({usual[0]} for "
            f"{share(usual[1], len(references))}); more references give a higher BLEU"
        )
    texts = [text for each in references for text in each]
    if empty := sum(not text.strip() for text in texts):
        warnings.append(f"{where}: {share(empty, len(texts))} references are empty")
    if unknown := sum(_UNKNOWN.search(text) is not None for text in texts):
        warnings.append(
            f"{where}: {share(unknown, len(texts))} references hold an unknown-word token: rare "
            "words were replaced, which raises scores. Take the references as people wrote them"
        )
    if (looks := _tokenised(texts)) or tokenised:
        warnings.append(
            f"{where}: the references look tokenised ({looks or 'the file holds words'}); "
            "published scores are of raw captions, and what a tokenizer removed is lost. Take the "
            "references as they were published"
        )
    return warnings


def of_letters(texts: Sequence[str]) -> list[str]:
    """Warn about captions and references from which the scorer's tokenizer drops letters."""
    if not (lost := sum(map(loses_letters, texts))):
        return []
    return [
        f"{share(lost, len(texts))} captions and references lose letters or marks in the tokenizer "
        "of coco-caption, so different words may count as equal. Score with --units characters"
    ]


def _tokenised(texts: Sequence[str]) -> str:
    """Return why references look tokenised, or "".

    A space before the full stop is not enough: Flickr8k was published that way, and full stops do
    not count. Text in lower case is harmless by itself, but people rarely write only in lower case.
    Scripts without capitals are not judged.
    """
    texts = [text for text in texts if text.lower() != text.upper()]
    if not texts:
        return ""
    lower = sum(text == text.lower() for text in texts) / len(texts)
    plain = sum(_MARKS.search(text) is None for text in texts) / len(texts)
    spaced = sum(_SPACED_STOP.search(text) is not None for text in texts) / len(texts)
    # A few captions may look like this by chance.
    if lower < _MOST + 0.08 or len(texts) < 20:
        return ""
    if plain >= _MOST + 0.08:
        return "all lower-case, no punctuation"
    if spaced >= _MOST:
        return "all lower-case, a space before the full stop"
    return ""
