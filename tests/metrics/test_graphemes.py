"""Characters as readers see them; expected clusters are those of Perl's \\X (Unicode 14)."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest

from jaxcap.metrics import evaluate_captions, splitter
from jaxcap.metrics.graphemes import character_tokens, graphemes


@pytest.mark.parametrize(
    ("text", "clusters"),
    [
        ("", []),
        ("a dog", ["a", " ", "d", "o", "g"]),
        ("红色的圆。", ["红", "色", "的", "圆", "。"]),
        ("ガラス", ["ガ", "ラ", "ス"]),
        ("ｶﾞﾗｽ", ["ｶﾞ", "ﾗ", "ｽ"]),
        ("น้ำกิน", ["น้ำ", "กิ", "น"]),
        ("कुत्ता", ["कु", "त्", "ता"]),
        ("كَلْب", ["كَ", "لْ", "ب"]),
        ("한국", ["한", "국"]),
        ("\u1112\u1161\u11ab\u1100", ["\u1112\u1161\u11ab", "\u1100"]),
        ("e\u0301te\u0301", ["e\u0301", "t", "e\u0301"]),
        ("\u0301a", ["\u0301", "a"]),
        ("👩‍👩‍👧🐕", ["👩‍👩‍👧", "🐕"]),
        ("👍🏽❤️", ["👍🏽", "❤️"]),
        ("🇩🇪🇯🇵🇫", ["🇩🇪", "🇯🇵", "🇫"]),
        ("#️⃣1", ["#️⃣", "1"]),
        ("🏴\U000e0067\U000e007f.", ["🏴\U000e0067\U000e007f", "."]),
        ("a\u200db", ["a\u200d", "b"]),
    ],
)
def test_clusters(text: str, clusters: list[str]) -> None:
    assert graphemes(text) == clusters


@hypothesis.given(st.text())
def test_nothing_is_lost(text: str) -> None:
    assert "".join(graphemes(text)) == text


def test_characters_are_scored_without_case_spaces_and_punctuation() -> None:
    assert character_tokens("一只 Dog，在跑。") == ["一", "只", "d", "o", "g", "在", "跑"]
    # Full width, half width and parts are the same letters.
    assert character_tokens("Ｄｏｇ") == ["d", "o", "g"]
    assert character_tokens("ｶﾞ") == character_tokens("カ\u3099") == ["ガ"]
    assert character_tokens("cafe\u0301!") == ["c", "a", "f", "é"]
    assert character_tokens("……") == character_tokens(" ") == []
    assert character_tokens("a\ud800") == ["a", "\ufffd"]


def test_a_sentence_without_spaces_is_scored_by_its_characters() -> None:
    """Worked by hand: 6 characters against 6, of which 5 agree, all in place but the third."""
    scores = evaluate_captions({0: "红色的圆在左"}, {0: ["红色方圆在左。"]}, units="characters")
    bleu = {n: scores.corpus[f"BLEU-{n}"] / 100 for n in (1, 2, 3, 4)}
    precisions = [5 / 6, 3 / 5, 1 / 4]  # 红色, 圆在 在左; 圆在左
    assert bleu[1] == pytest.approx(precisions[0])
    assert bleu[2] == pytest.approx((precisions[0] * precisions[1]) ** (1 / 2))
    assert bleu[3] == pytest.approx((precisions[0] * precisions[1] * precisions[2]) ** (1 / 3))
    assert bleu[4] == pytest.approx(0, abs=1e-3)
    # As words it is one word, and a wrong one.
    assert evaluate_captions({0: "红色的圆在左"}, {0: ["红色方圆在左。"]}).corpus["BLEU-1"] < 1e-3


def test_english_is_scored_as_ever_unless_asked_otherwise() -> None:
    caption, references = {0: "A dog runs."}, {0: ["The dog runs, fast", "a dog"]}
    as_ever = evaluate_captions(caption, references)
    assert as_ever.corpus == evaluate_captions(caption, references, units="words").corpus
    assert as_ever.corpus["BLEU-1"] == pytest.approx(100)  # a dog runs
    assert splitter("words")("A dog's ball.") == ["a", "dog", "'s", "ball"]
    assert splitter("characters")("A dog.") == ["a", "d", "o", "g"]
