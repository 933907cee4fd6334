"""Which texts lose letters in coco-caption's tokenizer."""

from __future__ import annotations

import pytest

from jaxcap.metrics import tokenize
from jaxcap.metrics.lost_letters import loses_letters


@pytest.mark.parametrize(
    "text",
    [
        "ಹುಲಿ",  # Kannada
        "പുല്ലിൽ",  # Malayalam
        "ଘାସ",  # Odia
        "ਇੱਕ",  # Punjabi
        "බල්ලෙක්",  # Sinhala
        "ခွေး",  # Burmese
        "ឆ្កែ",  # Khmer
        "ཁྱི",  # Tibetan
        "می\u200cدود",  # Persian, with a joiner
        "𞤀𞤣",  # Adlam, beyond plane 0
        "𠮷",  # a rare ideograph
        "〇",  # the zero of Chinese years
        "෧",  # a digit of Sinhala
    ],
)
def test_letters_are_lost(text: str) -> None:
    assert loses_letters(f"a {text}.")
    assert "".join(tokenize(text)) != text


@pytest.mark.parametrize(
    "text",
    [
        "", "A man's dog, 5-year-old!", "l’été", "cafe\u0301", "собака", "σκύλος",
        "कुत्ता दौड़ रहा है।", "একটি কুকুর", "ஒரு நாய்", "ఒక కుక్క", "એક કૂતરો", "หมา", "ໝາ", "كَلْبٌ",
        "כלב", "ውሻ",
        "犬が走る", "개",
        "a dog ❤️", "👩‍👩‍👧 1️⃣ 🏴󠁧󠁢󠁳󠁣󠁴󠁿", "½ – € “x”",
    ],
)  # fmt: skip
def test_nothing_is_lost(text: str) -> None:
    assert not loses_letters(text)


def test_different_words_become_equal() -> None:
    assert tokenize("ಹುಲಿ") == tokenize("ಹಾಲು")  # tiger and milk: the reason for the warning
