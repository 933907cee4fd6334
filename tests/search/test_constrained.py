"""Constrained beam search against all sentences, and against models that avoid the word."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    BOS,
    EOS,
    PAD,
    UNK,
    Chain,
    Sentence,
    beam_search,
    captions,
    check_against_hand,
    constrained_beam_search,
    count_steps,
    only,
    stepper,
)

from jaxcap.search import (
    SearchResult,
    length_between,
)
from jaxcap.search.processors import never

SETS = [
    [[4]],
    [[5, 6]],
    [[4], [5]],
    [[4, 6], [5]],
    [[4, 5], [5, 6]],  # 5 is of both sets
    [[4], [5], [6]],
]


def _required(*sets: Sequence[Sequence[int]]) -> jax.Array:
    """The sets of each image as one array, padded with `PAD`."""
    forms = max((len(words) for image in sets for words in image), default=0)
    array = np.full((len(sets), max(map(len, sets)), forms), PAD, np.int32)
    for image, of_image in enumerate(sets):
        for number, words in enumerate(of_image):
            array[image, number, : len(words)] = words
    return jnp.asarray(array)


def _satisfies(caption: Sentence, required: Sequence[Sequence[int]]) -> int:
    return sum(bool(set(words) & set(caption)) for words in required)


@pytest.mark.slow
@pytest.mark.parametrize("required", SETS)
def test_a_wide_beam_is_brute_force(required: list[list[int]]) -> None:
    chain = Chain.random(0, images=2, time=3, words=3)
    sentences = chain.sentences(3)
    result = constrained_beam_search(
        chain.step,
        chain.carry,
        _required(required, required),
        beam_size=len(sentences),
        max_length=3,
    )
    check_against_hand(chain, result)
    for image in range(2):
        order = {
            s: (-_satisfies(s, required), -chain.log_prob(image, s) / len(s)) for s in sentences
        }
        assert captions(result, image) == sorted(sentences, key=lambda s: order[s])
        satisfied = [_satisfies(s, required) == len(required) for s in captions(result, image)]
        assert result.satisfied[image].tolist() == satisfied
        assert any(satisfied)


@pytest.mark.slow
@pytest.mark.parametrize("bonus", [0.3, 1e4])
@pytest.mark.parametrize("required", SETS)
def test_wishes_are_worth_their_bonus(required: list[list[int]], bonus: float) -> None:
    """The last set is a wish, the others are required."""
    chain = Chain.random(0, images=1, time=3, words=3)
    sentences = chain.sentences(3)
    result = constrained_beam_search(
        chain.step,
        chain.carry,
        _required(required),
        beam_size=len(sentences),
        max_length=3,
        optional=1,
        bonus=bonus,
    )
    check_against_hand(chain, result)
    *needed, wish = required

    def value(s: Sentence) -> tuple[float, float]:
        score = chain.log_prob(0, s) / len(s) + bonus * _satisfies(s, [wish])
        return -_satisfies(s, needed), -score

    assert captions(result, 0) == sorted(sentences, key=value)
    satisfied = [_satisfies(s, needed) == len(needed) for s in captions(result, 0)]
    assert result.satisfied[0].tolist() == satisfied


@pytest.mark.slow
@pytest.mark.parametrize("beam_size", [1, 2, 5])
@pytest.mark.parametrize("required", SETS)
def test_a_word_that_the_model_avoids_is_found_all_the_same(
    required: list[list[int]], beam_size: int
) -> None:
    """e⁻³⁰ each: no beam of ordinary search would hold them."""
    chain = Chain.random(1, images=3, time=5, words=8)
    chain = Chain(chain.logits - 30.0 * np.isin(np.arange(12), [4, 5, 6]))
    plain = beam_search(chain.step, chain.carry, beam_size=beam_size, max_length=5)
    assert not any(_satisfies(s, required) for i in range(3) for s in captions(plain, i))
    result = constrained_beam_search(
        chain.step, chain.carry, _required(*[required] * 3), beam_size=beam_size, max_length=5
    )
    check_against_hand(chain, result)
    assert result.tokens.shape == (3, beam_size, 5)
    assert np.all(result.satisfied)
    for image in range(3):
        found = captions(result, image)
        assert all(_satisfies(s, required) == len(required) for s in found)
        assert len(set(found)) == beam_size
        assert np.all(np.diff(result.scores[image]) <= 0)


@pytest.mark.slow
def test_a_word_that_the_model_likes_changes_nothing() -> None:
    chain = Chain.random(2, images=3, time=4, words=4)
    chain = Chain(chain.logits + 30.0 * (np.arange(8) == 5) * (np.arange(4) == 0)[:, None, None])
    plain = beam_search(chain.step, chain.carry, beam_size=3, max_length=4)
    assert all(s[0] == 5 for i in range(3) for s in captions(plain, i))
    required = _required(*[[[5]]] * 3)
    result = constrained_beam_search(chain.step, chain.carry, required, beam_size=3, max_length=4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), result, plain)


@pytest.mark.slow
def test_what_cannot_be_is_said_and_the_rest_is_captioned() -> None:
    """A required word that is banned: the captions are those without it, not satisfied."""
    chain = Chain.random(3, images=2, time=4, words=5)
    rules = [never([6])]
    search = functools.partial(
        constrained_beam_search, chain.step, chain.carry, max_length=4, processors=rules
    )
    result = search(_required([[6]], [[6]]), beam_size=3)
    check_against_hand(chain, result)
    assert not np.any(result.satisfied)
    plain = beam_search(chain.step, chain.carry, beam_size=3, max_length=4, processors=rules)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        result._replace(satisfied=plain.satisfied),
        plain,
    )
    # One of two can be had: it is had.
    half = search(_required([[6], [4]], [[6], [4]]), beam_size=3)
    assert not np.any(half.satisfied)
    assert all(4 in s for image in range(2) for s in captions(half, image))


def test_more_words_than_there_is_room_for() -> None:
    chain = Chain.random(4, images=2, time=3, words=5)
    result = constrained_beam_search(
        chain.step,
        chain.carry,
        _required(*[[[4], [5], [6]]] * 2),
        beam_size=2,
        max_length=3,
        processors=[length_between(0, 2)],
    )
    check_against_hand(chain, result)
    assert not np.any(result.satisfied)
    for image in range(2):
        for caption in captions(result, image):
            assert caption[-1] == EOS
            assert _satisfies(caption, [[4], [5], [6]]) == 2


def test_it_stops_when_all_states_have_ended() -> None:
    logits = np.full((1, 50, 6, 6), -50.0, np.float32)
    logits[0, 0, :, 5] = 0.0
    logits[0, 1:, :, EOS] = 0.0
    chain = Chain(logits)
    search = functools.partial(
        constrained_beam_search, required=_required([[4]]), beam_size=1, max_length=50
    )
    steps, result = count_steps(search, chain)
    assert steps < 10
    (found,) = captions(result, 0)
    assert 4 in found
    assert np.all(result.satisfied)


@pytest.mark.slow
@pytest.mark.parametrize("partial_beam_size", [None, 1])
def test_each_image_has_its_own_requirements(partial_beam_size: int | None) -> None:
    """Together, in one program, as if each were searched alone; one of them requires nothing."""
    sets = [[[4], [6, 7]], [[5, 8], [4]], [[8]], []]
    chain = Chain.random(5, images=4, time=4, words=5)
    options = {"beam_size": 2, "partial_beam_size": partial_beam_size, "max_length": 4}
    search = jax.jit(functools.partial(constrained_beam_search, chain.step, **options))
    together = search(chain.carry, _required(*sets))
    check_against_hand(chain, together)
    assert np.all(together.satisfied)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    for image, required in enumerate(sets):
        assert all(
            _satisfies(caption, required) == len(required) for caption in captions(together, image)
        )
        alone = search(only(chain.carry, image), _required(required))
        jax.tree.map(same, only(together, image), alone)
    plain = beam_search(chain.step, only(chain.carry, 3), beam_size=2, max_length=4)
    jax.tree.map(same, only(together, 3), plain)


def test_states_with_words_left_have_beams_of_their_own_number() -> None:
    chain = Chain.random(5, images=1, time=4, words=5)
    seen: set[tuple[int, ...]] = set()

    def step(carry: Any, tokens: Any) -> Any:
        seen.add(tokens.shape)
        return chain.step(carry, tokens)

    constrained_beam_search(
        step,
        chain.carry,
        _required([[4], [5]]),
        beam_size=4,
        partial_beam_size=2,
        max_length=4,
    )
    assert seen == {(1, 1), (1, 4 + 3 * 2)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "required",
    [
        np.zeros((2, 0, 0)),
        np.zeros((2, 0, 3)),
        np.zeros((2, 2, 0)),
        np.full((2, 2, 3), -1),
        [[[PAD, -7], [EOS, BOS]], [[UNK, UNK], [-1, PAD]]],
    ],
)
def test_sets_without_words_require_nothing(required: Any) -> None:
    chain = Chain.random(6, images=2, time=4, words=5)
    result = constrained_beam_search(
        chain.step, chain.carry, jnp.asarray(required, jnp.int32), beam_size=3, max_length=4
    )
    plain = beam_search(chain.step, chain.carry, beam_size=3, max_length=4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), result, plain)


@pytest.mark.slow
def test_a_word_that_is_given_twice_gives_no_caption_twice() -> None:
    chain = Chain.random(7, images=2, time=3, words=4)
    search = functools.partial(
        constrained_beam_search, chain.step, chain.carry, beam_size=20, max_length=3
    )
    once, twice = search(_required(*[[[4, 5]]] * 2)), search(_required(*[[[4, 5, 4, 5]]] * 2))
    jax.tree.map(np.testing.assert_array_equal, once, twice)


@pytest.mark.slow
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(seed=st.integers(0, 2**32 - 1), sharpness=st.sampled_from([0.1, 1.0, 10.0]))
def test_properties_of_any_constrained_beam(seed: int, sharpness: float) -> None:
    required = [[4, 6], [5]]
    chain = Chain.random(seed, images=2, time=4, words=4, sharpness=sharpness)
    result = _jitted(jnp.asarray(chain.logits), chain.carry, _required(required, required))
    check_against_hand(chain, result)
    for image in range(2):
        found = captions(result, image)
        assert len(set(found)) == len(found) == 3
        assert [_satisfies(s, required) == 2 for s in found] == result.satisfied[image].tolist()
        assert result.satisfied[image, 0]
        best = max(
            chain.log_prob(image, s) / len(s)
            for s in chain.sentences(4)
            if _satisfies(s, required) == 2
        )
        assert result.scores[image, 0] <= best + 1e-4


@jax.jit
def _jitted(logits: Any, carry: Any, required: Any) -> SearchResult:
    return constrained_beam_search(stepper(logits), carry, required, beam_size=3, max_length=4)
