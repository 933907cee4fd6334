"""The pieces that searches are made of: selection, length, ensembles."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    Chain,
    beam_search,
    captions,
    check_against_hand,
    constrained_beam_search,
    diverse_beam_search,
    greedy_search,
    log_softmax,
    sample,
)

from jaxcap.search import (
    SearchResult,
    average,
    normalise,
)
from jaxcap.search.guiding import guide_requirements, word_forms
from jaxcap.search.processors import never, no_ending_on, no_repeated_ngram, no_repetition
from jaxcap.search.top import largest


@pytest.mark.parametrize(("size", "k"), [(5000, 3), (1000, 7), (64 * 21, 10), (130, 1), (9, 9)])
@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(data=st.data())
def test_the_largest_are_those_of_a_stable_sort(size: int, k: int, data: Any) -> None:
    """With many ties; the first counts."""
    values = st.sampled_from([-1e9, -2.0, 0.0, 0.5, 3.0])
    x = data.draw(hnp.arrays(np.float32, (2, 3, size), elements=values, fill=values))
    found, places = jax.jit(largest, static_argnums=1)(jnp.asarray(x), k)
    expected = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(x, expected, axis=-1))


def test_normalisations_worked_by_hand() -> None:
    """log p = −6 for 7 tokens. GNMT at α = 1 divides by 12/6 = 2, at α = 0.5 by √2."""
    of = functools.partial(normalise, jnp.array([-6.0]), jnp.array([7]))
    for value, expected in (
        (of("none"), -6.0),
        (of("average", 5.0), -6 / 7),
        (of("exponent", 2.0), -6 / 49),
        (of("exponent", 0.0), -6.0),
        (of("gnmt", 1.0), -3.0),
        (of("gnmt", 0.5), -4.2426407),
    ):
        np.testing.assert_allclose(value, [expected], rtol=1e-6)


@pytest.mark.slow
def test_an_ensemble_averages_probabilities() -> None:
    """Three chains as one: the chain of the mean of their tables."""
    chains = [Chain.random(seed, images=2, time=4, words=4) for seed in range(3)]
    p = np.mean([np.exp(log_softmax(chain.logits)) for chain in chains], axis=0)
    mean = Chain(np.log(p).astype(np.float32))
    carry = tuple(chain.carry for chain in chains)
    result = beam_search(
        average([chain.step for chain in chains]), carry, beam_size=3, max_length=4
    )
    check_against_hand(mean, result)
    alone = beam_search(mean.step, mean.carry, beam_size=3, max_length=4)
    for image in range(2):
        assert captions(result, image) == captions(alone, image)
    np.testing.assert_allclose(result.scores, alone.scores, atol=1e-5)


def test_attention_of_an_ensemble_is_the_first_ones_whatever_the_others_have() -> None:
    first, second = (Chain.random(seed, images=2, time=3, words=4) for seed in (4, 5))

    def without_attention(carry: Any, tokens: Any) -> Any:
        carry, output = second.step(carry, tokens)
        return carry, output._replace(weights=output.weights[..., :0])

    step, carry = average([first.step, without_attention]), (first.carry, second.carry)
    result = beam_search(step, carry, beam_size=2, max_length=3)
    assert result.weights.shape == (2, 2, 3, 2)
    assert result.weights[1, 0, 0].tolist() == [100.0, 2.0]
    with pytest.raises(ValueError, match="at least one"):
        average([])


class LogitsAlone(NamedTuple):
    logits: Any


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["none", "absent"])
def test_a_step_without_attention_finds_the_same_captions(weights: str) -> None:
    chain = Chain.random(6, images=2, time=4, words=5)

    def blind(carry: Any, tokens: Any) -> Any:
        carry, output = chain.step(carry, tokens)
        if weights == "none":
            return carry, output._replace(weights=None)
        return carry, LogitsAlone(output.logits)

    keys = jax.random.split(jax.random.key(0), 2)
    for search in (
        functools.partial(beam_search, beam_size=3),
        functools.partial(diverse_beam_search, beam_size=4, groups=2, diversity=0.5),
        functools.partial(constrained_beam_search, required=jnp.full((2, 1, 1), 5), beam_size=2),
        functools.partial(sample, rngs=keys, n=3),
        greedy_search,
    ):
        seeing = search(chain.step, chain.carry, max_length=4)
        found = search(blind, chain.carry, max_length=4)
        np.testing.assert_array_equal(found.tokens, seeing.tokens)
        np.testing.assert_array_equal(found.scores, seeing.scores)
        assert found.weights.shape == (*found.tokens.shape, 0)


def _guided(step: Any, carry: Any, **options: Any) -> SearchResult:
    """Require words 4 or 5, and 6, as a recogniser might."""
    images = carry["image"].shape[0]
    required = guide_requirements(
        jnp.broadcast_to(jnp.array([5, 6]), (images, 2)),
        jnp.broadcast_to(jnp.array([0.9, 0.8]), (images, 2)),
        jnp.asarray(word_forms([["e", "f"], ["g"]], "abcdefghi")),
        threshold=0.5,
        at_most=2,
    )
    return constrained_beam_search(step, carry, required, beam_size=2, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "search",
    [
        functools.partial(beam_search, beam_size=3),
        functools.partial(diverse_beam_search, beam_size=4, groups=2, diversity=0.5),
        _guided,
        greedy_search,
    ],
)
def test_an_exported_program_leaves_the_number_of_images_open(search: Any) -> None:
    chain = Chain.random(7, images=3, time=4, words=5)
    rules = [never([8]), no_repetition(), no_repeated_ngram(2), no_ending_on([7])]

    def find(carry: Any) -> list[Any]:
        return list(search(chain.step, carry, max_length=4, processors=rules))

    (batch,) = jax.export.symbolic_shape("b")
    carry = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, 1), x.dtype), chain.carry)
    program = jax.export.export(jax.jit(find))(carry)
    for one, other in zip(program.call(chain.carry), jax.jit(find)(chain.carry), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def _operations(search: Any, carry: Any) -> int:
    return jax.jit(search).lower(carry).as_text().count("stablehlo.")


@pytest.mark.slow
def test_programs_of_large_searches_are_as_short_as_those_of_small_ones() -> None:
    """A model's own search may ask for them, and long programs take minutes to compile."""
    chain = Chain.random(8, images=1, time=2, words=5)

    def in_groups(carry: Any, *, groups: int) -> SearchResult:
        beams: dict[str, Any] = {"beam_size": groups, "groups": groups, "diversity": 0.5}
        return diverse_beam_search(chain.step, carry, max_length=2, **beams)

    def without_ngrams(carry: Any, *, n: int) -> SearchResult:
        rules = [no_repeated_ngram(n)]
        return greedy_search(chain.step, carry, max_length=200, processors=rules)

    for program, few, many in (
        (in_groups, {"groups": 9}, {"groups": 72}),
        (without_ngrams, {"n": 10}, {"n": 100}),
    ):
        short, long = (
            _operations(functools.partial(program, **options), chain.carry)
            for options in (few, many)
        )
        assert long <= short
