"""From the arrays of a batch to results, with the words that the model recognises."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.captioning.decoding import Decoded
from jaxcap.captioning.results import Captioned
from jaxcap.captioning.stream import caption_images
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.search import SearchResult
from jaxcap.text.vocabulary import EOS, SPECIALS, Vocabulary

VOCABULARY = Vocabulary((*SPECIALS, "a", "cat", "cats", "couch", "dog", "red", "sofa"))
A, CAT, CATS, COUCH, DOG, RED, SOFA = range(4, 11)


def _decode(variables: Any, images: Any) -> Decoded:
    """Caption both images "a cat"; recognise nothing in the second."""
    return Decoded(
        SearchResult(
            tokens=jnp.array([[[A, CAT, EOS]]] * 2),
            word_log_probs=jnp.array([[[-1.0, -2.0, -0.5]]] * 2),
            scores=jnp.full((2, 1), -3.5),
            weights=jnp.zeros((2, 1, 3, 0)),
            satisfied=jnp.ones((2, 1), bool),
        ),
        RecognisedWords(
            jnp.array([[CATS, SOFA, RED, COUCH, DOG], [0, 0, 0, 0, 0]]),
            jnp.array([[0.9, 0.8, 0.7, 0.6, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0]]),
        ),
        jnp.array([[1.0, 2.0], [3.0, 4.0]]),
    )


def _caption(guide: float) -> list[Captioned]:
    images = [np.zeros((4, 4, 3), np.uint8)] * 2
    options: Any = {"sizes": [4], "batch_size": 2, "threads": 1, "attention": False}
    return list(caption_images(images, _decode, [None], VOCABULARY, **options, guide=guide))


def test_a_result_has_what_the_model_saw() -> None:
    first, second = _caption(0.0)
    assert (first.name, first.captions[0].text) == ("image 0", "a cat")
    assert list(first.recognised) == ["cats", "sofa", "red", "couch", "dog"]
    assert list(first.recognised.values()) == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert second.recognised == {}
    assert first.features is not None
    assert second.features is not None
    np.testing.assert_array_equal([first.features, second.features], [[1, 2], [3, 4]])
    assert first.familiarity is second.familiarity is None


@pytest.mark.parametrize(
    ("guide", "unsaid"), [(0.0, ()), (0.5, ("sofa", "dog")), (0.55, ("sofa",)), (0.85, ())]
)
def test_things_that_the_guide_asks_for_and_no_caption_says_are_named(
    guide: float, unsaid: tuple[str, ...]
) -> None:
    """A cat is said, a sofa and a couch are one thing, and red is none."""
    first, second = _caption(guide)
    assert first.unsaid == unsaid
    assert second.unsaid == ()
