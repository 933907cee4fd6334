"""CIDEr-D against numbers worked by hand."""

from __future__ import annotations

import math

import pytest

from jaxcap.metrics import cider_d


def test_the_same_sentence_scores_1000_and_no_common_word_zero() -> None:
    references = [[list("abcde")], [list("fghij")]]
    scores = cider_d([list("abcde"), list("vwxyz")], references).per_image
    assert scores == pytest.approx([1000, 0])


def test_weights_clipping_and_length_penalty_by_hand() -> None:
    # Two images, so a word of one image's references weighs log 2 and of both, 0.
    # Candidate "a a" and reference "a b": counts clip to one "a". With w = log 2,
    #   unigrams: min(2w, w)·w / (2w · √2·w) = 1 / (2√2); pairs ("a a" and "a b"): 0.
    # Both have one pair, so there is no length penalty; mean over four orders, times 1000.
    references = [[["a", "b"]], [["c", "d"]]]
    assert cider_d([["a", "a"], ["d"]], references).per_image == pytest.approx(
        [
            1000 / 4 / (2 * math.sqrt(2)),
            # "d" has no pair, its reference one: Δ = −1, σ = 6; cosine w² / (w · √2·w).
            1000 / 4 * math.exp(-1 / 72) / math.sqrt(2),
        ]
    )


def test_words_of_every_image_weigh_nothing() -> None:
    references = [[["a"]], [["a"]]]
    assert cider_d([["a"], ["a"]], references).mean == 0.0


def test_one_image_alone_scores_zero() -> None:
    assert cider_d([["a", "dog"]], [[["a", "dog"]]]).mean == 0.0


def test_empty_caption_scores_zero() -> None:
    assert cider_d([[], ["c"]], [[["a"]], [["c"]]]).per_image[0] == 0.0
