"""Diverse beam search against the same search written with lists."""

from __future__ import annotations

import functools
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
    diverse_beam_search,
    stepper,
)

from jaxcap.search import (
    Ranking,
    SearchResult,
)


def _by_hand(
    chain: Chain, image: int, *, beam_size: int, groups: int, diversity: float, max_length: int
) -> list[list[Sentence]]:
    """The captions of each group, one candidate list after the other."""
    size = beam_size // groups
    beams: list[list[Sentence]] = [[()] for _ in range(groups)]
    for time in range(max_length):
        chosen: list[int] = []
        for group in range(groups):
            options: list[tuple[float, Sentence]] = []
            for caption in beams[group]:
                if caption[-1:] == (EOS,):
                    options.append((chain.log_prob(image, caption), caption))
                    continue
                for word in set(range(chain.logits.shape[-1])) - {PAD, BOS, UNK}:
                    longer = (*caption, word)
                    score = chain.log_prob(image, longer) - diversity * chosen.count(word)
                    options.append((score, longer))
            beams[group] = [caption for _, caption in sorted(options, reverse=True)[:size]]
            chosen += [caption[-1] for caption in beams[group] if len(caption) == time + 1]
    return beams


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _search(logits: Any, carry: Any, beam_size: int, groups: int, diversity: float) -> SearchResult:
    return diverse_beam_search(
        stepper(logits),
        carry,
        beam_size=beam_size,
        groups=groups,
        diversity=diversity,
        max_length=logits.shape[1],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beam_size", "groups", "diversity"),
    [(6, 3, 0.5), (4, 2, 2.0), (3, 3, 0.8), (6, 2, 0.0), (4, 1, 5.0)],
)
@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(seed=st.integers(0, 2**32 - 1), sharpness=st.sampled_from([0.5, 2.0]))
def test_it_finds_what_lists_find(
    beam_size: int, groups: int, diversity: float, seed: int, sharpness: float
) -> None:
    chain = Chain.random(seed, images=2, time=4, words=5, sharpness=sharpness)
    result = _search(jnp.asarray(chain.logits), chain.carry, beam_size, groups, diversity)
    check_against_hand(chain, result)
    for image in range(2):
        beams = _by_hand(
            chain,
            image,
            beam_size=beam_size,
            groups=groups,
            diversity=diversity,
            max_length=4,
        )
        expected = [caption for group in beams for caption in group]
        assert sorted(captions(result, image)) == sorted(expected)
        scores = sorted((chain.log_prob(image, s) / len(s) for s in expected), reverse=True)
        np.testing.assert_allclose(result.scores[image], scores, atol=1e-4)


@pytest.mark.slow
def test_groups_begin_with_different_words_as_worked_by_hand() -> None:
    """p(a, b, c) = 0.5, 0.3, 0.2. Two groups of one beam take a, then b as soon as λ > log(5/3).

    log(0.5 / 0.3) = 0.511.
    """
    a, b, c = 4, 5, 6
    p = np.zeros((1, 1, 7, 7))
    p[..., [a, b, c]] = [0.5, 0.3, 0.2]
    chain = Chain.of_probabilities(p)
    search = functools.partial(
        diverse_beam_search, chain.step, chain.carry, beam_size=2, groups=2, max_length=1
    )
    assert captions(search(diversity=0.50), 0) == [(a,), (a,)]
    result = search(diversity=0.52)
    assert captions(result, 0) == [(a,), (b,)]
    np.testing.assert_allclose(result.scores[0], np.log([0.5, 0.3]), atol=1e-5)  # λ is not in them
    three = diverse_beam_search(
        chain.step, chain.carry, beam_size=3, groups=3, diversity=9.0, max_length=1
    )
    assert captions(three, 0) == [(a,), (b,), (c,)]


@pytest.mark.slow
def test_one_group_is_beam_search() -> None:
    chain = Chain.random(1, images=3, time=5, words=6)
    diverse = diverse_beam_search(
        chain.step,
        chain.carry,
        beam_size=4,
        groups=1,
        diversity=3.0,
        max_length=5,
        ranking=Ranking(n_best=3),
    )
    beam = beam_search(
        chain.step, chain.carry, beam_size=4, max_length=5, ranking=Ranking(n_best=3)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), diverse, beam)


def test_groups_must_be_equal() -> None:
    chain = Chain.random(2, images=1, time=1, words=6)
    for groups in (0, 2):
        with pytest.raises(ValueError, match="equal groups"):
            diverse_beam_search(
                chain.step, chain.carry, beam_size=3, groups=groups, diversity=1.0, max_length=1
            )
