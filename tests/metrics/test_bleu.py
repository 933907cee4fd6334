"""BLEU and ROUGE-L against numbers worked by hand."""

from __future__ import annotations

import math

import pytest

from jaxcap.messages.errors import InputError
from jaxcap.metrics import bleu, evaluate_captions, rouge_l


def test_clipping_is_the_papers_example() -> None:
    # Papineni et al., section 2.1: "the" counts twice of seven times, as in reference 1.
    references = [
        ["the", "cat", "is", "on", "the", "mat"],
        ["there", "is", "a", "cat", "on", "the", "mat"],
    ]
    result = bleu([["the"] * 7], [references])
    assert result.corpus[0] == pytest.approx(100 * 2 / 7)


def test_counts_are_pooled_and_short_captions_penalised() -> None:
    # Image 1: 3 of 3 words, 1 of 2 pairs. Image 2: 1 of 2 words, 0 of 1 pairs.
    # Pooled: p1 = 4/5, p2 = 1/3; c = 5; r = 4 + 3 = 7.
    candidates = [["a", "b", "d"], ["x", "y"]]
    references = [[["a", "b", "c", "d"]], [["x", "z", "w"]]]
    penalty = math.exp(1 - 7 / 5)
    corpus = bleu(candidates, references).corpus
    assert corpus[0] == pytest.approx(100 * penalty * 4 / 5)
    assert corpus[1] == pytest.approx(100 * penalty * math.sqrt(4 / 5 * 1 / 3))


def test_of_two_equally_near_references_the_shorter_counts() -> None:
    references = [[["a"] * 3, ["a"] * 5]]  # both one word away from a candidate of four
    assert bleu([["a"] * 4], references).corpus[0] == pytest.approx(100)


def test_empty_caption_scores_zero() -> None:
    assert bleu([[]], [[["a", "dog"]]]).corpus == pytest.approx([0.0] * 4)
    assert rouge_l([[]], [[["a", "dog"]]]).mean == 0.0


def test_rouge_takes_best_precision_and_best_recall() -> None:
    # With "a b x": common 2, P 2/3, R 2/3. With "b": common 1, P 1/3, R 1.
    # Best P = 2/3, best R = 1, and F = (1 + 1.44)·P·R / (R + 1.44·P).
    result = rouge_l([["a", "b", "c"]], [[["a", "b", "x"], ["b"]]])
    assert result.mean == pytest.approx(100 * 2.44 * (2 / 3) / (1 + 1.44 * 2 / 3))


def test_unequal_or_missing_input_is_refused() -> None:
    with pytest.raises(InputError, match="1 candidates but 2 sets"):
        bleu([["a"]], [[["a"]], [["b"]]])
    with pytest.raises(InputError, match="found 0"):
        bleu([], [])
    with pytest.raises(InputError, match="Image 1 has no reference"):
        bleu([["a"], ["b"]], [[["a"]], []])


def test_evaluate_captions_tokenises_and_scores_in_percent() -> None:
    references = {"x": ["A dog runs.", "The man's dog runs!"], "y": ["Two cats sleep."]}
    scores = evaluate_captions({"y": "two cats sleep", "x": "the man's dog runs"}, references)
    assert list(scores.corpus) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"]
    # Word for word a reference each time: every n-gram there is matches, one has no four-gram.
    assert scores.corpus["BLEU-4"] == pytest.approx(100)
    assert scores.corpus["ROUGE-L"] == pytest.approx(100)
    assert list(scores.per_image) == ["y", "x"]
    assert scores.per_image["x"]["BLEU-4"] == pytest.approx(100)
    assert scores.per_image["y"]["CIDEr-D"] == pytest.approx(1000 * 3 / 4)  # no four-grams


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({}, {}, "found 0"),
        ({"a.jpg": "a"}, {"a.jpg": ["a"], "b.jpg": ["b"]}, "no caption: b.jpg"),
        ({"a.jpg": "a", "b.jpg": "b"}, {"a.jpg": ["a"]}, "no references: b.jpg"),
        ({}, {str(i): ["a"] for i in range(9)}, "0, 1, 2 and 6 more"),
        ({"a.jpg": "a"}, {"a.jpg": []}, "an empty list of references for 1 image: a.jpg"),
        ({"a.jpg": "a"}, {"a.jpg": "a dog"}, "single string for a.jpg"),
    ],
)
def test_evaluate_captions_names_what_is_wrong(
    candidates: dict[str, str], references: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_captions(candidates, references)
