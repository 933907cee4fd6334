"""Search against toy Markov chains whose every sentence can be written down and scored."""

import collections
import functools
import itertools
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.search import SearchResult, beam_search, greedy_search, sample

PAD, BOS, EOS, UNK = range(4)
IMPOSSIBLE = -1e4
POSITIONS = 2


class Output(NamedTuple):
    logits: Any
    weights: Any


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


class Chain:
    """For each of B images a Markov chain: p(next | last, time), by a table of logits.

    The carry holds the image's number and the time, so a beam that took the carry of another
    image or forgot to move it would read the wrong table. Attention at (b, last, time) is a
    number that says exactly that.
    """

    def __init__(self, logits: np.ndarray):
        self.logits = logits  # (B, time, V, V)
        self.log_probs = _log_softmax(logits)

    @classmethod
    def random(cls, seed: int, *, images: int, time: int, words: int, unused: int = 0) -> "Chain":
        """`words` real words, and `unused` ids more that have practically no probability."""
        size = 4 + words + unused
        logits = 2 * np.random.default_rng(seed).normal(size=(images, time, size, size))
        if unused:
            logits[..., -unused:] = IMPOSSIBLE
        return cls(logits.astype(np.float32))

    @property
    def carry(self) -> Any:
        images = self.logits.shape[0]
        return {"image": jnp.arange(images)[:, None], "time": jnp.zeros((images, 1), jnp.int32)}

    def step(self, carry: Any, tokens: Any) -> Any:
        image, time = carry["image"], carry["time"]
        weights = jnp.stack([100.0 * image + 10.0 * time, tokens + 1.0], axis=-1)
        return {"image": image, "time": time + 1}, Output(
            jnp.asarray(self.logits)[image, time, tokens], weights
        )

    def word_log_probs(self, image: int, tokens: tuple[int, ...]) -> list[float]:
        """By hand: log p of every word after the one before it."""
        before = (BOS, *tokens[:-1])
        return [
            float(self.log_probs[image, t, last, word])
            for t, (last, word) in enumerate(zip(before, tokens, strict=True))
        ]

    def sentences(self, *, words: int, max_length: int) -> list[tuple[int, ...]]:
        """Every caption there can be: ended within `max_length` tokens, or cut there."""
        alphabet = range(4, 4 + words)
        ended = [
            (*start, EOS)
            for n in range(max_length)
            for start in itertools.product(alphabet, repeat=n)
        ]
        return ended + list(itertools.product(alphabet, repeat=max_length))


def _captions(result: SearchResult, image: int) -> list[tuple[int, ...]]:
    """Tokens without the padding, which must be at the end only."""
    captions = []
    for row in np.asarray(result.tokens[image]).tolist():
        length = row.index(PAD) if PAD in row else len(row)
        assert set(row[length:]) <= {PAD}
        captions.append(tuple(row[:length]))
    return captions


def _check_against_hand(chain: Chain, result: SearchResult) -> None:
    """What must hold of any search's result."""
    log_probs, result = jax.device_get((result.log_probs, result))
    images, n, max_length = result.tokens.shape
    assert result.weights.shape == (images, n, max_length, POSITIONS)
    for image, beam in itertools.product(range(images), range(n)):
        tokens = _captions(result, image)[beam]
        length = len(tokens)
        assert not {PAD, BOS, UNK} & set(tokens)
        assert EOS not in tokens[:-1]
        assert length == max_length or tokens[-1] == EOS
        by_hand = chain.word_log_probs(image, tokens)
        np.testing.assert_allclose(result.word_log_probs[image, beam, :length], by_hand, atol=1e-4)
        assert not np.any(result.word_log_probs[image, beam, length:])
        np.testing.assert_allclose(log_probs[image, beam], sum(by_hand), atol=1e-4)
        # The weights of the step that chose the word: it read the word before.
        weights = [
            [100.0 * image + 10.0 * t, last + 1.0] for t, last in enumerate((BOS, *tokens[:-1]))
        ]
        np.testing.assert_array_equal(result.weights[image, beam, :length], weights)
        assert not np.any(result.weights[image, beam, length:])


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0, 2.0])
def test_a_beam_as_wide_as_the_space_is_brute_force(length_penalty: float) -> None:
    words, max_length = 2, 3
    space = 1 + 2 + 4 + 8
    chain = Chain.random(0, images=3, time=max_length, words=words, unused=space)
    result = beam_search(
        chain.step,
        chain.carry,
        beam_size=space,
        max_length=max_length,
        length_penalty=length_penalty,
    )
    _check_against_hand(chain, result)
    for image in range(3):
        scores = {
            s: sum(chain.word_log_probs(image, s)) / len(s) ** length_penalty
            for s in chain.sentences(words=words, max_length=max_length)
        }
        assert len(scores) == space
        best_first = sorted(scores, key=lambda s: -scores[s])
        assert _captions(result, image) == best_first
        np.testing.assert_allclose(result.scores[image], [scores[s] for s in best_first], atol=1e-4)


def test_length_penalty_changes_the_winner_as_worked_by_hand() -> None:
    """ "a" has p = 0.5 · 0.5 and "b b" 0.5 · 0.6 · 0.6: shorter is likelier, longer averages more.

    log 0.25 / 2 = −0.69 and log 0.18 / 3 = −0.57.
    """
    a, b = 4, 5
    p = np.full((1, 3, 7, 7), 1e-9)
    p[0, 0, BOS, [a, b]] = 0.5
    p[0, 1, a, [EOS, b]] = 0.5
    p[0, 1, b, [b, a]] = [0.6, 0.4]
    p[0, 2, b, [EOS, a]] = [0.6, 0.4]
    p[0, 2, a, [EOS, a, b]] = [0.3, 0.3, 0.4]
    chain = Chain(np.log(p).astype(np.float32))
    search = functools.partial(beam_search, chain.step, chain.carry, beam_size=3, max_length=3)
    likeliest, average = search(length_penalty=0.0), search(length_penalty=1.0)
    assert _captions(likeliest, 0)[0] == (a, EOS)
    np.testing.assert_allclose(likeliest.scores[0, 0], np.log(0.25), atol=1e-5)
    assert _captions(average, 0)[0] == (b, b, EOS)
    np.testing.assert_allclose(average.scores[0, 0], np.log(0.18) / 3, atol=1e-5)


def _greedy_by_hand(chain: Chain, image: int, max_length: int) -> tuple[int, ...]:
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
    _check_against_hand(chain, result)
    by_hand = [_greedy_by_hand(chain, image, 6) for image in range(16)]
    assert [_captions(result, image)[0] for image in range(16)] == by_hand
    assert {len(tokens) for tokens in by_hand} > {1, 6}  # some end at once, some are cut
    np.testing.assert_allclose(result.scores, result.log_probs, rtol=1e-6)


def test_one_beam_is_greedy() -> None:
    chain = Chain.random(2, images=16, time=6, words=5)
    greedy = greedy_search(chain.step, chain.carry, max_length=6)
    beam = beam_search(chain.step, chain.carry, beam_size=1, max_length=6, length_penalty=0.0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), greedy, beam)


def test_forbidden_words_are_skipped_even_where_they_are_likeliest() -> None:
    chain = Chain.random(3, images=4, time=5, words=6)
    chain = Chain(chain.logits + 30.0 * np.isin(np.arange(10), [PAD, BOS, UNK]))
    _check_against_hand(chain, greedy_search(chain.step, chain.carry, max_length=5))
    _check_against_hand(chain, beam_search(chain.step, chain.carry, beam_size=7, max_length=5))
    _check_against_hand(
        chain, sample(chain.step, chain.carry, jax.random.key(0), n=50, max_length=5)
    )


@pytest.mark.parametrize("beam_size", [1, 2, 5, 7])
@pytest.mark.parametrize("max_length", [1, 4])
def test_beams_are_distinct_and_best_first(beam_size: int, max_length: int) -> None:
    chain = Chain.random(4, images=6, time=max_length, words=6)
    result = beam_search(chain.step, chain.carry, beam_size=beam_size, max_length=max_length)
    assert result.tokens.shape == (6, beam_size, max_length)
    _check_against_hand(chain, result)
    for image in range(6):
        captions = _captions(result, image)
        assert len(set(captions)) == beam_size
        scores = [sum(chain.word_log_probs(image, s)) / len(s) for s in captions]
        np.testing.assert_allclose(result.scores[image], scores, atol=1e-4)
        assert np.all(np.diff(result.scores[image]) <= 0)


def test_a_beam_that_must_hold_forbidden_words_is_refused() -> None:
    """3 words and `<eos>` begin 4 captions; a fifth beam could only begin with `<unk>` or so."""
    chain = Chain.random(5, images=1, time=1, words=3)
    result = beam_search(chain.step, chain.carry, beam_size=4, max_length=1)
    assert set(_captions(result, 0)) == {(EOS,), (4,), (5,), (6,)}
    with pytest.raises(ValueError, match="5"):
        beam_search(chain.step, chain.carry, beam_size=5, max_length=1)


@pytest.mark.parametrize(("n", "max_length"), [(0, 3), (2, 0)])
def test_no_caption_or_no_word_is_refused(n: int, max_length: int) -> None:
    chain = Chain.random(6, images=1, time=1, words=3)
    with pytest.raises(ValueError, match="at least one"):
        beam_search(chain.step, chain.carry, beam_size=n, max_length=max_length)
    with pytest.raises(ValueError, match="at least one"):
        sample(chain.step, chain.carry, jax.random.key(0), n=n, max_length=max_length)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    chain = Chain.random(7, images=5, time=5, words=5)
    beam = functools.partial(beam_search, beam_size=4, max_length=5)
    greedy = functools.partial(greedy_search, max_length=5)
    for search in (beam, greedy):
        together = search(chain.step, chain.carry)
        for image in range(5):
            alone = search(chain.step, jax.tree.map(lambda x, i=image: x[i : i + 1], chain.carry))
            jax.tree.map(
                lambda x, y, i=image: np.testing.assert_allclose(x[i : i + 1], y, rtol=1e-6),
                together,
                alone,
            )


def _count_steps(search: Any, chain: Chain) -> tuple[int, SearchResult]:
    calls = []

    def step(carry: Any, tokens: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return chain.step(carry, tokens)

    result = jax.block_until_ready(search(step, chain.carry))
    jax.effects_barrier()
    return len(calls), result


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
    steps, result = _count_steps(search, chain)
    assert steps == 4
    _check_against_hand(chain, result)
    assert {len(s) for s in _captions(result, 0)} == {2}
    assert {len(s) for s in _captions(result, 1)} == {4}


def test_search_gives_the_same_under_jit() -> None:
    chain = Chain.random(8, images=3, time=4, words=5)
    search = functools.partial(beam_search, chain.step, beam_size=3, max_length=4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5),
        search(chain.carry),
        jax.jit(search)(chain.carry),
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_are_as_frequent_as_they_are_likely(temperature: float) -> None:
    """Every one of the 15 captions, by a χ² test with the seed fixed."""
    words, max_length, n = 2, 3, 20_000
    chain = Chain.random(9, images=2, time=max_length, words=words)
    result = sample(
        chain.step,
        chain.carry,
        jax.random.key(1),
        n=n,
        max_length=max_length,
        temperature=temperature,
    )
    tempered = chain.log_probs / temperature
    tempered[..., [PAD, BOS, UNK]] = -np.inf
    tempered -= np.log(np.exp(tempered).sum(-1, keepdims=True))
    for image in range(2):
        captions = collections.Counter(_captions(result, image))
        sentences = chain.sentences(words=words, max_length=max_length)
        before = [(BOS, *s[:-1]) for s in sentences]
        expected = n * np.exp(
            [
                sum(tempered[image, t, a, b] for t, (a, b) in enumerate(zip(x, y, strict=True)))
                for x, y in zip(before, sentences, strict=True)
            ]
        )
        assert expected.sum() == pytest.approx(n)
        found = np.array([captions[s] for s in sentences])
        assert found.sum() == n
        chi_square = ((found - expected) ** 2 / expected).sum()
        assert chi_square < 36.1  # 14 degrees of freedom, p = 0.001


def test_samples_carry_the_models_own_log_probabilities() -> None:
    chain = Chain.random(10, images=2, time=4, words=4)
    result = sample(chain.step, chain.carry, jax.random.key(2), n=20, max_length=4, temperature=3.0)
    _check_against_hand(chain, result)
    np.testing.assert_allclose(result.scores, result.log_probs, rtol=1e-5)


def test_samples_follow_the_key_and_nothing_else() -> None:
    chain = Chain.random(11, images=2, time=4, words=6)
    draw = functools.partial(sample, chain.step, chain.carry, n=20, max_length=4)
    first, again, other = (draw(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert np.any(first.tokens != other.tokens)
    assert len(set(_captions(first, 0))) > 5


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    sharpness=st.sampled_from([0.1, 1.0, 10.0]),
    length_penalty=st.sampled_from([0.0, 0.7, 1.0]),
)
def test_properties_of_any_beam(seed: int, sharpness: float, length_penalty: float) -> None:
    """No beam beats the best caption there is, and all that is returned is true."""
    chain = Chain.random(seed, images=2, time=3, words=3)
    chain = Chain(np.float32(sharpness) * chain.logits)
    result = _jitted_beam(jnp.asarray(chain.logits), chain.carry, length_penalty)
    _check_against_hand(chain, result)
    for image in range(2):
        best = max(
            sum(chain.word_log_probs(image, s)) / len(s) ** length_penalty
            for s in chain.sentences(words=3, max_length=3)
        )
        captions = _captions(result, image)
        assert len(set(captions)) == 4
        assert result.scores[image, 0] <= best + 1e-4
        assert np.all(np.diff(result.scores[image]) <= 0)


@functools.partial(jax.jit, static_argnums=2)
def _jitted_beam(logits: Any, carry: Any, length_penalty: float) -> SearchResult:
    def step(carry: Any, tokens: Any) -> Any:
        return Chain.step(_Tables(logits), carry, tokens)

    return beam_search(step, carry, beam_size=4, max_length=3, length_penalty=length_penalty)


class _Tables(NamedTuple):
    logits: Any
