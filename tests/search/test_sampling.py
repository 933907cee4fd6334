"""Samples against the distribution that they are drawn from."""

from __future__ import annotations

import collections
import functools
import itertools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    BOS,
    PAD,
    UNK,
    Chain,
    captions,
    check_against_hand,
    sample,
    stepper,
)


def _filtered(log_probs: np.ndarray, *, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The probabilities that words are drawn with, by the definition: `[..., V]`."""
    log_probs = log_probs / temperature
    log_probs[..., [PAD, BOS, UNK]] = -np.inf
    p = np.exp(log_probs)
    for row in p.reshape(-1, p.shape[-1]):
        order = np.argsort(-row)
        row[order[top_k:]] = 0
        row /= row.sum()
        kept = next(n for n in range(1, row.size + 1) if row[order[:n]].sum() > top_p - 1e-9)
        row[order[kept:]] = 0
        row /= row.sum()
    return p


# The 0.999 quantiles of χ² with so many degrees of freedom (Abramowitz and Stegun, table 26.8).
_UNLIKELY = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32, 8: 26.12}
_UNLIKELY |= {9: 27.88, 10: 29.59, 11: 31.26, 12: 32.91, 13: 34.53, 14: 36.12}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(0.5, 9, 1.0), (1.0, 9, 1.0), (2.0, 9, 1.0), (1.0, 2, 1.0), (2.0, 9, 0.7), (3.0, 2, 0.8)],
)
def test_samples_are_as_frequent_as_they_are_likely(
    temperature: float, top_k: int, top_p: float
) -> None:
    """Every one of the 15 captions, by a χ² test with the seed fixed."""
    max_length, n = 3, 20_000
    chain = Chain.random(9, images=2, time=max_length, words=2, sharpness=1.5)
    result = sample(
        chain.step,
        chain.carry,
        jax.random.split(jax.random.key(1), 2),
        n=n,
        max_length=max_length,
        temperature=temperature,
        top_k=None if top_k == 9 else top_k,
        top_p=top_p,
    )
    p = _filtered(chain.log_probs.copy(), temperature=temperature, top_k=top_k, top_p=top_p)
    for image in range(2):
        found = collections.Counter(captions(result, image))
        expected = {
            s: n
            * np.prod([p[image, t, a, b] for t, (a, b) in enumerate(itertools.pairwise((BOS, *s)))])
            for s in chain.sentences(max_length)
        }
        assert sum(expected.values()) == pytest.approx(n)
        possible = [s for s, e in expected.items() if e > 0]
        assert set(found) <= set(possible)
        chi_square = sum((found[s] - expected[s]) ** 2 / expected[s] for s in possible)
        assert chi_square < _UNLIKELY[len(possible) - 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (None, 0.39, [0]),
        (None, 0.41, [0, 1]),
        (None, 0.69, [0, 1]),
        (None, 0.71, [0, 1, 2]),
        (None, 0.89, [0, 1, 2]),
        (None, 0.91, [0, 1, 2, 3]),
        (None, 1e-6, [0]),
        (1, 1.0, [0]),
        (3, 1.0, [0, 1, 2]),
        (99, 1.0, [0, 1, 2, 3]),
        (3, 0.43, [0]),  # 0.4 / 0.9 = 0.44: of three words it is enough, of four not
        (3, 0.45, [0, 1]),
    ],
)
def test_the_smallest_sufficient_set_of_words_worked_by_hand(
    top_k: int | None, top_p: float, kept: list[int]
) -> None:
    words = np.array([6, 4, 7, 5])  # p = 0.4, 0.3, 0.2, 0.1
    p = np.zeros((1, 1, 8, 8))
    p[..., words] = [0.4, 0.3, 0.2, 0.1]
    chain = Chain.of_probabilities(p)
    result = sample(
        chain.step,
        chain.carry,
        jax.random.split(jax.random.key(3), 1),
        n=400,
        max_length=1,
        top_k=top_k,
        top_p=top_p,
    )
    assert set(captions(result, 0)) == {(int(word),) for word in words[kept]}


@pytest.mark.slow
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.8, 0.99])
@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(seed=st.integers(0, 2**32 - 1), sharpness=st.sampled_from([0.5, 2.0, 6.0]))
def test_nothing_outside_the_smallest_sufficient_set_is_drawn(
    top_p: float, seed: int, sharpness: float
) -> None:
    chain = Chain.random(seed, images=2, time=1, words=5, sharpness=sharpness)
    drawn = np.asarray(_jitted_words(jnp.asarray(chain.logits), chain.carry, top_p))
    for image in range(2):
        p = np.exp(chain.log_probs[image, 0, BOS])
        p[[PAD, BOS, UNK]] = 0
        p /= p.sum()
        for word in set(drawn[image].tolist()):
            assert p[p > p[word]].sum() < top_p + 1e-5  # without it the others would not do


@functools.partial(jax.jit, static_argnums=2)
def _jitted_words(logits: Any, carry: Any, top_p: float) -> Any:
    rngs = jax.random.split(jax.random.key(0), 2)
    return sample(stepper(logits), carry, rngs, n=60, max_length=1, top_p=top_p).tokens[..., 0]


@pytest.mark.slow
def test_samples_carry_the_models_own_log_probabilities() -> None:
    chain = Chain.random(10, images=2, time=4, words=4)
    rngs = jax.random.split(jax.random.key(2), 2)
    for options in ({"temperature": 3.0}, {"top_k": 2}, {"top_p": 0.5, "temperature": 0.5}):
        result = sample(chain.step, chain.carry, rngs, n=20, max_length=4, **options)  # type: ignore[arg-type]
        check_against_hand(chain, result)
        np.testing.assert_allclose(result.scores, result.log_probs, rtol=1e-5)


@pytest.mark.slow
def test_samples_follow_the_key_of_their_image_and_nothing_else() -> None:
    """Neither the neighbours, nor the place in the batch, nor how many are drawn."""
    chain = Chain.random(11, images=3, time=4, words=6)
    rngs = jax.random.split(jax.random.key(0), 3)
    draw = functools.partial(sample, chain.step, max_length=4, top_p=0.95)
    together = draw(chain.carry, rngs, n=20)
    for rows in ([0], [2, 1], [1, 1, 1, 0, 2]):
        carry = jax.tree.map(lambda x, rows=rows: x[np.array(rows)], chain.carry)
        found = draw(carry, rngs[np.array(rows)], n=20)
        np.testing.assert_array_equal(found.tokens, together.tokens[np.array(rows)])
    fewer = draw(chain.carry, rngs, n=7)
    np.testing.assert_array_equal(fewer.tokens, together.tokens[:, :7])
    other = draw(chain.carry, jax.random.split(jax.random.key(1), 3), n=20)
    assert np.any(other.tokens != together.tokens)
    assert len(set(captions(together, 0))) > 5


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": 0}]
)
def test_what_cannot_be_drawn_from_is_refused(options: dict[str, Any]) -> None:
    chain = Chain.random(12, images=1, time=1, words=3)
    with pytest.raises(ValueError, match="expected temperature > 0"):
        sample(
            chain.step,
            chain.carry,
            jax.random.split(jax.random.key(0), 1),
            n=1,
            max_length=1,
            **options,
        )
