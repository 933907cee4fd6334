"""Requirements from recognised words, worked out by hand."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    Chain,
    beam_search,
    captions,
    constrained_beam_search,
)

from jaxcap.search.guiding import doubts, guide_requirements, word_forms

VOCABULARY = ("<pad>", "<bos>", "<eos>", "<unk>", "cat", "dog", "cats", "red", "dogs", "cup")
GROUPS = (("cat", "cats", "kitten"), ("puppy", "dog", "dogs"), ("cup",), ("yak", "yaks"))
FORMS = word_forms(GROUPS, VOCABULARY)


def _guide(words: list[list[tuple[int, float]]], *, at_most: int = 2) -> list[list[list[int]]]:
    ids, probabilities = np.moveaxis(np.array(words), -1, 0)
    guide = jax.jit(functools.partial(guide_requirements, threshold=0.5, at_most=at_most))
    found = guide(jnp.asarray(ids, jnp.int32), jnp.asarray(probabilities), jnp.asarray(FORMS))
    assert found.shape == (len(words), min(at_most, len(words[0])), 2)
    return [[[i for i in form if i] for form in image if any(form)] for image in found.tolist()]


def test_forms_are_those_that_the_vocabulary_has() -> None:
    expected = {4: [4, 6], 6: [4, 6], 5: [5, 8], 8: [5, 8], 9: [9, 0]}
    assert FORMS.tolist() == [expected.get(id, [0, 0]) for id in range(len(VOCABULARY))]


def test_the_group_of_an_excluded_word_is_left_out() -> None:
    forms = word_forms(GROUPS, VOCABULARY, excluded=[6])
    assert not forms[[4, 6]].any()
    np.testing.assert_array_equal(forms[[5, 8, 9]], FORMS[[5, 8, 9]])


def test_a_word_of_two_groups_belongs_to_the_first() -> None:
    assert word_forms([("cat", "cats"), ("cat", "dog")], VOCABULARY)[4].tolist() == [4, 6]


def test_a_vocabulary_without_forms_requires_nothing() -> None:
    forms = jnp.asarray(word_forms([("yak",)], VOCABULARY))
    found = guide_requirements(
        jnp.array([[4, 5]]), jnp.array([[0.9, 0.9]]), forms, threshold=0.5, at_most=2
    )
    assert not np.any(found)


def test_strong_words_are_required_each_group_once_and_the_strongest_first() -> None:
    words = [
        [(4, 0.9), (6, 0.8), (8, 0.5), (9, 0.4)],  # cat and cats are one; a cup is too weak
        [(7, 0.9), (9, 0.6), (0, 0.0), (0, 0.0)],  # red has no group
        [(9, 0.9), (5, 0.8), (4, 0.7), (0, 0.0)],  # three things, of which two are kept
        [(5, 0.4), (4, 0.3), (9, 0.2), (8, 0.1)],
    ]
    assert _guide(words) == [[[4, 6], [5, 8]], [[9]], [[9], [5, 8]], []]
    assert _guide(words, at_most=1) == [[[4, 6]], [[9]], [[9]], []]
    assert _guide(words, at_most=9)[2] == [[9], [5, 8], [4, 6]]


def test_a_thing_is_doubted_if_none_of_its_words_is_recognised_or_another_animal_is() -> None:
    things = np.array([0, 0, 0, 0, 1, 2, 1, 0, 2, 3], np.int32)  # cats, dogs, a cup
    ids = jnp.array([[6, 7, 0], [5, 9, 4], [4, 0, 0], [5, 4, 9], [5, 4, 9]])
    rows = [[0.9, 0.5, 0.0], [0.2, 0.0, 0.1], [0.0, 0.0, 0.0], [0.5, 0.4, 0.3], [0.6, 0.5, 0.3]]
    found = jax.jit(doubts)(things, np.isin(things, [1, 2]), ids, jnp.array(rows))
    assert found[:, [4, 5, 6, 8, 9]].tolist() == [
        [0, 2, 0, 2, 1],  # a cat, so a dog is doubted for two reasons
        [0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1],
        [1, 0, 1, 0, 0],  # a dog, and less certainly a cat
        [0, 0, 0, 0, 0],  # both
    ]
    assert not found[:, [0, 1, 2, 3, 7]].any()


@pytest.mark.slow
def test_guided_captions_contain_the_words_of_their_image() -> None:
    chain = Chain.random(0, images=3, time=4, words=6)
    ids = jnp.array([[4, 6], [9, 0], [7, 8]])
    probabilities = jnp.array([[0.9, 0.8], [0.7, 0.0], [0.9, 0.4]])

    @jax.jit
    def search(ids: jax.Array, probabilities: jax.Array) -> object:
        required = guide_requirements(
            ids, probabilities, jnp.asarray(FORMS), threshold=0.5, at_most=2
        )
        return constrained_beam_search(chain.step, chain.carry, required, beam_size=2, max_length=4)

    result = search(ids, probabilities)
    assert np.all(result.satisfied)
    for image, form in enumerate([{4, 6}, {9}]):
        assert all(form & set(caption) for caption in captions(result, image))
    plain = beam_search(chain.step, chain.carry, beam_size=2, max_length=4)
    np.testing.assert_array_equal(result.tokens[2], plain.tokens[2])
