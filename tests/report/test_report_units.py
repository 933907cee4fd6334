"""Packed captions in characters and pieces."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from jaxcap.report.rows import ReportCaption, ReportRow, packed_row


def packed(text: str, words: list[str] | None) -> dict[str, Any]:
    count = len(words or text.split())
    caption = ReportCaption(
        text, -1.0, [math.log(0.5)] * (count + 1), np.eye(4, dtype=np.uint8)[:count], words
    )
    return packed_row(ReportRow("x", None, [caption]), None)


def test_each_character_has_probability_and_attention() -> None:
    row = packed("红 圆", ["红", " ", "圆"])
    assert row["units"] == ["红", "␣", "圆"]
    assert row["words"] == [0.5] * 3
    assert len(base64.b64decode(row["attention"])) == 3 * 4


def test_pieces_are_shown_without_the_space_mark() -> None:
    assert packed("a redder", ["▁a", "▁red", "der"])["units"] == ["a", "red", "der"]


def test_words_default_to_splitting_at_spaces() -> None:
    plain = packed("a red dog", None)
    assert "units" not in plain
    assert packed("a red dog", ["a", "red", "dog"]) == plain
