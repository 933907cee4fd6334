"""Diversity, by hand."""

from __future__ import annotations

import math

import pytest

from jaxcap.messages.errors import InputError
from jaxcap.scoring.diversity import measure


def test_by_hand() -> None:
    captions = [text.split() for text in ("a dog runs", "a dog runs", "a dog", "the red cat runs")]
    found = measure(captions, {"a dog", "a dog jumps"})
    # 12 words, of which differ: a dog runs the red cat. Pairs: a-dog dog-runs the-red red-cat
    # cat-runs. Captions that differ: three.
    assert found.distinct == (6 / 12, 5 / 12)
    assert found.vocabulary == 6
    assert found.unique == 3 / 4
    assert found.novel == 3 / 4
    assert found.length == 3.0
    assert found.length_sd == pytest.approx(math.sqrt((0 + 0 + 1 + 1) / 4))
    assert measure(captions).novel is None


def test_empty_captions_divide_nothing_by_zero() -> None:
    assert measure([[], []]).distinct == (0.0, 0.0)
    with pytest.raises(InputError, match="found 0"):
        measure([])
