"""Packed rows, as the page's script reads them, and attention as bytes."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest

from jaxcap.report import ReportCaption, ReportRow, scale_attention
from jaxcap.report.pictures import Embedded, Linked, Unreadable
from jaxcap.report.rows import packed_row


def packed(caption: ReportCaption, **rest):
    return packed_row(ReportRow("x", None, [caption], **rest), None)


def test_a_packed_row_has_exactly_the_known_values() -> None:
    assert packed(ReportCaption("a dog")) == {"id": "x", "captions": [["a dog", None]]}
    assert packed_row(ReportRow("x", None, []), None) == {"id": "x", "captions": []}
    row = ReportRow(
        "x",
        None,
        [ReportCaption("a dog", -2.34567, [math.log(0.5), math.log(0.25), -9.0])],
        ["one", "two"],
        {"BLEU-4": 31.25678, "CIDEr-D": math.nan, "SPICE": math.inf},
        False,
    )
    assert packed_row(row, Embedded(b"", 160, 80)) == {
        "id": "x",
        "captions": [["a dog", -2.3457]],
        "words": [0.5, 0.25],  # the end of the sentence is not a word
        "references": ["one", "two"],
        "scores": {"BLEU-4": 31.2568, "CIDEr-D": None, "SPICE": None},
        "verdict": False,
        "size": [160, 80],
    }


def test_a_packed_row_describes_its_image() -> None:
    row = ReportRow("x", None, [])
    assert packed_row(row, Linked("./a%20b.jpg"))["link"] == "./a%20b.jpg"
    assert packed_row(row, Unreadable("the file is empty"))["note"] == "the file is empty"


def test_attention_is_scaled_by_the_words_own_peak() -> None:
    weights = np.array([[0.1, 0.4, 0.2, 0.3], [0.25] * 4, [0.0] * 4], np.float32)
    expected = [[64, 255, 128, 191], [255] * 4, [0] * 4]  # 255 · 0.1/0.4 = 63.75, …
    np.testing.assert_array_equal(scale_attention(weights), np.array(expected, np.uint8))
    assert scale_attention(np.zeros((2, 0), np.float32)).shape == (2, 0)


def test_attention_is_packed_as_bytes() -> None:
    weights = np.array([[0.1, 0.4, 0.2, 0.3], [0.25] * 4, [1.0, 0, 0, 0]], np.float32)
    for given in (weights, weights.astype(np.float64), scale_attention(weights)):
        text = packed(ReportCaption("a dog", attention=given))["attention"]
        assert list(base64.b64decode(text)) == [64, 255, 128, 191, 255, 255, 255, 255]


@pytest.mark.parametrize(
    "caption",
    [
        ReportCaption("a dog", attention=np.ones((2, 0), np.float32)),  # no attention
        ReportCaption("a dog", attention=np.ones((2, 6), np.uint8)),  # no square grid
        ReportCaption("a dog", attention=np.ones((1, 4), np.uint8)),  # fewer than the words
        ReportCaption("a dog", word_log_probs=[-1.0]),
        ReportCaption("", attention=np.ones((1, 4), np.uint8), word_log_probs=[-1.0]),
    ],
)
def test_values_that_do_not_match_the_words_are_omitted(caption: ReportCaption) -> None:
    assert packed(caption).keys() == {"id", "captions"}


def test_only_single_spaces_separate_words() -> None:
    # A tokenizer may leave a fraction in one word, held together by a no-break space.
    caption = ReportCaption("1\u00a01/2 dogs", word_log_probs=[0.0, 0.0, -1.0])
    assert packed(caption)["words"] == [1.0, 1.0]
