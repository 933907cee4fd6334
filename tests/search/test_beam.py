"""Greedy and beam search against all sentences of a toy Markov chain."""

from __future__ import annotations

import functools
import math
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
    count_steps,
    greedy_search,
    only,
    sample,
    stepper,
)

from jaxcap.search import (
    NEVER,
    Ranking,
    SearchResult,
    length_between,
)


def _gnmt(log_prob: float, length: int, alpha: float) -> float:
    return log_prob / ((5 + length) ** alpha / (5 + 1) ** alpha)


SCORES: dict[str, Any] = {
    "none": lambda log_prob, length, alpha: log_prob,
    "average": lambda log_prob, length, alpha: log_prob / length,
    "exponent": lambda log_prob, length, alpha: log_prob / length**alpha,
    "gnmt": _gnmt,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("normalisation", "alpha"),
    [
        ("none", 1.0),
        ("average", 0.3),
        *(("exponent", alpha) for alpha in (0.0, 0.5, 1.0, 2.0)),
        *(("gnmt", alpha) for alpha in (0.0, 0.65, 1.0)),
    ],
)
def test_a_beam_as_wide_as_the_space_is_brute_force(normalisation: Any, alpha: float) -> None:
    max_length, space = 3, 1 + 2 + 4 + 8
    chain = Chain.random(0, images=3, time=max_length, words=2)
    result = beam_search(
        chain.step,
        chain.carry,
        beam_size=space,
        max_length=max_length,
        ranking=Ranking(normalisation=normalisation, length_penalty=alpha),
    )
    check_against_hand(chain, result)
    assert np.all(result.satisfied)
    for image in range(3):
        scores = {
            s: SCORES[normalisation](chain.log_prob(image, s), len(s), alpha)
            for s in chain.sentences(max_length)
        }
        assert len(scores) == space
        best_first = sorted(scores, key=lambda s: -scores[s])
        assert captions(result, image) == best_first
        np.testing.assert_allclose(result.scores[image], [scores[s] for s in best_first], atol=1e-4)


def test_a_beam_wider_than_the_space_says_what_does_not_exist() -> None:
    chain = Chain.random(1, images=2, time=2, words=2)
    result = beam_search(chain.step, chain.carry, beam_size=10, max_length=2)
    check_against_hand(chain, result)
    for image in range(2):
        assert set(captions(result, image)) == set(chain.sentences(2))
    assert np.all(result.exists.sum(axis=-1) == 1 + 2 + 4)


@pytest.mark.slow
def test_length_penalty_changes_the_winner_as_worked_by_hand() -> None:
    """ "a" has p = 0.5 · 0.5 and "b b" 0.5 · 0.6 · 0.6: shorter is likelier, longer averages more.

    log 0.25 / 2 = −0.69 and log 0.18 / 3 = −0.57. GNMT divides by (7/6)^α and (8/6)^α: α = 1
    gives −1.188 and −1.286, and the first wins; at α = 2.5, −0.943 and −0.835, the second.
    """
    a, b = 4, 5
    p = np.zeros((1, 3, 6, 6))
    p[0, 0, BOS, [a, b]] = 0.5
    p[0, 1, a, [EOS, b]] = 0.5
    p[0, 1, b, [b, a]] = [0.6, 0.4]
    p[0, 2, b, [EOS, a]] = [0.6, 0.4]
    p[0, 2, a, [EOS, a, b]] = [0.3, 0.3, 0.4]
    chain = Chain.of_probabilities(p)
    search = functools.partial(beam_search, chain.step, chain.carry, beam_size=3, max_length=3)
    for options, winner, score in (
        ({"length_penalty": 0.0}, (a, EOS), math.log(0.25)),
        ({"normalisation": "none"}, (a, EOS), math.log(0.25)),
        ({"length_penalty": 1.0}, (b, b, EOS), math.log(0.18) / 3),
        ({"normalisation": "average", "length_penalty": 0.0}, (b, b, EOS), math.log(0.18) / 3),
        ({"normalisation": "gnmt"}, (a, EOS), -1.18825),
        ({"normalisation": "gnmt", "length_penalty": 2.5}, (b, b, EOS), -0.83535),
    ):
        result = search(ranking=Ranking(**options))  # type: ignore[arg-type]
        assert captions(result, 0)[0] == winner
        np.testing.assert_allclose(result.scores[0, 0], score, atol=1e-5)


def _greedy_by_hand(chain: Chain, image: int, max_length: int) -> Sentence:
    tokens: list[int] = []
    while len(tokens) < max_length and EOS not in tokens:
        row = chain.log_probs[image, len(tokens), tokens[-1] if tokens else BOS].copy()
        row[[PAD, BOS, UNK]] = -np.inf
        tokens.append(int(row.argmax()))
    return tuple(tokens)


def test_greedy_takes_the_likeliest_word_each_time() -> None:
    chain = Chain.random(1, images=16, time=6, words=5)
    result = greedy_search(chain.step, chain.carry, max_length=6)
    assert result.tokens.shape == (16, 1, 6)
    check_against_hand(chain, result)
    by_hand = [_greedy_by_hand(chain, image, 6) for image in range(16)]
    assert [captions(result, image)[0] for image in range(16)] == by_hand
    assert {len(tokens) for tokens in by_hand} > {1, 6}  # some end at once, some are cut
    np.testing.assert_allclose(result.scores, result.log_probs, rtol=1e-6)


def test_one_beam_is_greedy() -> None:
    chain = Chain.random(2, images=16, time=6, words=5)
    greedy = greedy_search(chain.step, chain.carry, max_length=6)
    beam = beam_search(
        chain.step, chain.carry, beam_size=1, max_length=6, ranking=Ranking(normalisation="none")
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), greedy, beam)


@pytest.mark.slow
def test_forbidden_words_are_skipped_even_where_they_are_likeliest() -> None:
    chain = Chain.random(3, images=4, time=5, words=6)
    chain = Chain(chain.logits + 30.0 * np.isin(np.arange(10), [PAD, BOS, UNK]))
    check_against_hand(chain, greedy_search(chain.step, chain.carry, max_length=5))
    check_against_hand(chain, beam_search(chain.step, chain.carry, beam_size=7, max_length=5))
    rngs = jax.random.split(jax.random.key(0), 4)
    check_against_hand(chain, sample(chain.step, chain.carry, rngs, n=50, max_length=5))


@pytest.mark.slow
@pytest.mark.parametrize("beam_size", [1, 2, 5, 7])
@pytest.mark.parametrize("max_length", [1, 4])
def test_beams_are_distinct_and_best_first(beam_size: int, max_length: int) -> None:
    chain = Chain.random(4, images=6, time=max_length, words=6)
    search = functools.partial(beam_search, chain.step, chain.carry, beam_size=beam_size)
    result = search(max_length=max_length)
    assert result.tokens.shape == (6, beam_size, max_length)
    check_against_hand(chain, result)
    for image in range(6):
        found = captions(result, image)
        assert len(set(found)) == beam_size
        scores = [chain.log_prob(image, s) / len(s) for s in found]
        np.testing.assert_allclose(result.scores[image], scores, atol=1e-4)
        assert np.all(np.diff(result.scores[image]) <= 0)
    best = search(max_length=max_length, ranking=Ranking(n_best=1))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[:, :1]), best, result)


@pytest.mark.parametrize(("n", "max_length"), [(0, 3), (2, 0)])
def test_no_caption_or_no_word_is_refused(n: int, max_length: int) -> None:
    chain = Chain.random(6, images=1, time=1, words=3)
    with pytest.raises(ValueError, match="must be at least 1"):
        beam_search(chain.step, chain.carry, beam_size=n, max_length=max_length)
    rngs = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(ValueError, match="must be at least 1"):
        sample(chain.step, chain.carry, rngs, n=n, max_length=max_length)


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_neighbours() -> None:
    chain = Chain.random(7, images=5, time=5, words=5)
    beam = functools.partial(beam_search, beam_size=4, max_length=5)
    greedy = functools.partial(greedy_search, max_length=5)
    for search in (beam, greedy):
        together = search(chain.step, chain.carry)
        for image in range(5):
            alone = search(chain.step, only(chain.carry, image))
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=1e-6),
                only(together, image),
                alone,
            )


@pytest.mark.slow
@pytest.mark.parametrize("beam_size", [0, 1, 2])
def test_search_stops_when_every_caption_has_ended(beam_size: int) -> None:
    """Sure to end: after 1 word in the first image and after 3 in the second, of 50."""
    logits = np.zeros((2, 50, 6, 6), np.float32)
    logits[..., EOS] = -50.0
    logits[0, 1:, :, EOS] = 50.0
    logits[1, 3:, :, EOS] = 50.0
    chain = Chain(logits)
    search = functools.partial(
        *((beam_search,) if beam_size else (greedy_search,)),
        max_length=50,
        **({"beam_size": beam_size} if beam_size else {}),
    )
    steps, result = count_steps(search, chain)
    assert steps == 4
    check_against_hand(chain, result)
    assert {len(s) for s in captions(result, 0)} == {2}
    assert {len(s) for s in captions(result, 1)} == {4}


def test_search_stops_when_what_has_not_ended_does_not_exist() -> None:
    """One word, after which all captions end: of five beams there are but two."""
    chain = Chain.random(8, images=1, time=50, words=1)
    search = functools.partial(
        beam_search, beam_size=5, max_length=50, processors=[length_between(0, 1)]
    )
    steps, result = count_steps(search, chain)
    assert steps == 2
    check_against_hand(chain, result)
    assert set(captions(result, 0)) == {(EOS,), (4, EOS)}


def test_search_gives_the_same_under_jit() -> None:
    chain = Chain.random(8, images=3, time=4, words=5)
    search = functools.partial(beam_search, chain.step, beam_size=3, max_length=4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5),
        search(chain.carry),
        jax.jit(search)(chain.carry),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("least", "most"), [(0, 3), (2, 3), (3, 3), (0, 0), (1, 2)])
def test_captions_between_two_lengths_are_those_of_brute_force(least: int, most: int) -> None:
    chain = Chain.random(9, images=2, time=4, words=2)
    allowed = [s for s in chain.sentences(most + 1) if s[-1] == EOS and least <= len(s) - 1 <= most]
    options: dict[str, Any] = {
        "max_length": most + 1,
        "processors": [length_between(least, most)],
    }
    result = beam_search(chain.step, chain.carry, beam_size=20, **options)
    check_against_hand(chain, result)
    for image in range(2):
        scores = {s: chain.log_prob(image, s) / len(s) for s in allowed}
        assert captions(result, image) == sorted(allowed, key=lambda s: -scores[s])
    rngs = jax.random.split(jax.random.key(0), 2)
    for found in (
        greedy_search(chain.step, chain.carry, **options),
        sample(chain.step, chain.carry, rngs, n=20, **options),
    ):
        check_against_hand(chain, found)
        assert set(captions(found, 0) + captions(found, 1)) <= set(allowed)


def _nothing_after(time: int) -> Any:
    def process(log_probs: Any, tokens: Any, now: Any) -> Any:
        return jnp.where(now >= time, NEVER, log_probs)

    return process


@pytest.mark.slow
@pytest.mark.parametrize("time", [0, 2])
def test_where_all_is_ruled_out_the_caption_ends(time: int) -> None:
    """The end is let through, with the model's own log probability, however unlikely."""
    chain = Chain.random(10, images=2, time=5, words=3)
    chain = Chain(chain.logits - 20.0 * (np.arange(7) == EOS))
    options: dict[str, Any] = {"max_length": 5, "processors": [_nothing_after(time)]}
    rngs = jax.random.split(jax.random.key(0), 2)
    for result in (
        greedy_search(chain.step, chain.carry, **options),
        sample(chain.step, chain.carry, rngs, n=5, temperature=0.1, top_p=0.5, **options),
        beam_search(chain.step, chain.carry, beam_size=2, **options),
    ):
        check_against_hand(chain, result)
        found = captions(result, 0) + captions(result, 1)
        assert {(len(s), s[-1]) for s in found} == {(time + 1, EOS)}


@pytest.mark.slow
def test_what_the_model_holds_impossible_is_no_error() -> None:
    logits = np.zeros((1, 3, 6, 6), np.float32)
    logits[..., 4] = -np.inf
    chain = Chain(logits)
    result = beam_search(chain.step, chain.carry, beam_size=2, max_length=3)
    assert captions(result, 0) == [(EOS,), (5, EOS)]
    np.testing.assert_allclose(
        result.log_probs[0], [math.log(1 / 5), 2 * math.log(1 / 5)], rtol=1e-5
    )
    assert np.all(np.isfinite(beam_search(chain.step, chain.carry, beam_size=9, max_length=3)[1]))


@pytest.mark.slow
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    sharpness=st.sampled_from([0.1, 1.0, 10.0]),
    length_penalty=st.sampled_from([0.0, 0.7, 1.0]),
    shape=st.sampled_from([(1, 1, 1, 1), (2, 3, 3, 4), (3, 4, 2, 5), (5, 3, 4, 2)]),
)
def test_properties_of_any_beam(
    seed: int, sharpness: float, length_penalty: float, shape: tuple[int, int, int, int]
) -> None:
    """No beam beats the best caption there is, and all that is returned is true."""
    images, time, words, beam_size = shape
    chain = Chain.random(seed, images=images, time=time, words=words, sharpness=sharpness)
    result = _jitted_beam(jnp.asarray(chain.logits), chain.carry, beam_size, length_penalty)
    check_against_hand(chain, result)
    for image in range(images):
        best = max(
            chain.log_prob(image, s) / len(s) ** length_penalty for s in chain.sentences(time)
        )
        found = captions(result, image)
        assert len(set(found)) == len(found) == min(beam_size, len(chain.sentences(time)))
        assert result.scores[image, 0] <= best + 1e-4
        assert np.all(np.diff(result.scores[image]) <= 0)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _jitted_beam(logits: Any, carry: Any, beam_size: int, length_penalty: float) -> SearchResult:
    return beam_search(
        stepper(logits),
        carry,
        beam_size=beam_size,
        max_length=logits.shape[1],
        ranking=Ranking(length_penalty=length_penalty),
    )
