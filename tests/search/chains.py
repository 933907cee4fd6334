"""Toy Markov chains: every sentence can be written down and scored."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcap import search
from jaxcap.search import NEVER, SearchResult

PAD, BOS, EOS, UNK = range(4)
IMPOSSIBLE = -1e4
POSITIONS = 2

Sentence = tuple[int, ...]


def _jitted(search: Callable[..., SearchResult]) -> Callable[..., SearchResult]:
    """One program for each search. Op by op, JAX would compile a hundred for each new shape."""

    @functools.wraps(search)
    def run(step: Any, *arrays: Any, **options: Any) -> SearchResult:
        return jax.jit(functools.partial(search, step, **options))(*arrays)

    return run


beam_search = _jitted(search.beam_search)
constrained_beam_search = _jitted(search.constrained_beam_search)
diverse_beam_search = _jitted(search.diverse_beam_search)
greedy_search = _jitted(search.greedy_search)
sample = _jitted(search.sample)


class Output(NamedTuple):
    logits: Any
    weights: Any


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def stepper(logits: Any) -> Callable[[Any, Any], Any]:
    """The step function of tables `[B, time, V, V]`, which may be traced."""

    def step(carry: Any, tokens: Any) -> Any:
        image, time = carry["image"], carry["time"]
        weights = jnp.stack([100.0 * image + 10.0 * time, tokens + 1.0], axis=-1)
        tables = jnp.asarray(logits)
        return {"image": image, "time": time + 1}, Output(tables[image, time, tokens], weights)

    return step


class Chain:
    """For each of B images a Markov chain: p(next | last, time), by a table of logits.

    The carry holds the image's number and the time, so a beam that took the carry of another
    image or forgot to move it would read the wrong table. Attention at (b, last, time) is a
    number that says exactly that.
    """

    def __init__(self, logits: np.ndarray):
        self.logits = logits  # (B, time, V, V)
        self.log_probs = log_softmax(logits)
        self.step = stepper(logits)

    @classmethod
    def random(
        cls, seed: int, *, images: int, time: int, words: int, sharpness: float = 2
    ) -> Chain:
        """`words` words beside the four special tokens."""
        size = 4 + words
        logits = sharpness * np.random.default_rng(seed).normal(size=(images, time, size, size))
        return cls(logits.astype(np.float32))

    @classmethod
    def of_probabilities(cls, p: np.ndarray) -> Chain:
        """`p` `[B, time, V, V]`; what is 0 there is 1e-9."""
        return cls(np.log(np.maximum(p, 1e-9)).astype(np.float32))

    @property
    def carry(self) -> Any:
        images = self.logits.shape[0]
        return {"image": jnp.arange(images)[:, None], "time": jnp.zeros((images, 1), jnp.int32)}

    @property
    def words(self) -> range:
        return range(4, self.logits.shape[-1])

    def word_log_probs(self, image: int, tokens: Sentence) -> list[float]:
        """By hand: log p of every word after the one before it."""
        before = (BOS, *tokens)[:-1]
        return [
            float(self.log_probs[image, t, last, word])
            for t, (last, word) in enumerate(zip(before, tokens, strict=True))
        ]

    def log_prob(self, image: int, tokens: Sentence) -> float:
        return sum(self.word_log_probs(image, tokens))

    def sentences(self, max_length: int) -> list[Sentence]:
        """Every caption there can be: ended within `max_length` tokens, or cut there."""
        ended = [
            (*start, EOS)
            for n in range(max_length)
            for start in itertools.product(self.words, repeat=n)
        ]
        return ended + list(itertools.product(self.words, repeat=max_length))


def captions(result: SearchResult, image: int) -> list[Sentence]:
    """The captions that exist, without the padding, which must be at the end only."""
    found = []
    for row, exists in zip(
        np.asarray(result.tokens[image]).tolist(), np.asarray(result.exists[image]), strict=True
    ):
        length = row.index(PAD) if PAD in row else len(row)
        assert set(row[length:]) <= {PAD}
        assert bool(length) == bool(exists)
        if exists:
            found.append(tuple(row[:length]))
    return found


def check_against_hand(chain: Chain, result: SearchResult) -> None:
    """Check what must hold for any search's result."""
    log_probs, exists, result = jax.device_get((result.log_probs, result.exists, result))
    images, n, max_length = result.tokens.shape
    assert result.weights.shape == (images, n, max_length, POSITIONS)
    assert np.all(exists[:, 0])
    assert np.all(np.diff(exists.astype(int)) <= 0)
    for image, beam in itertools.product(range(images), range(n)):
        row = result.tokens[image, beam]
        length = int(np.count_nonzero(row != PAD))
        tokens = tuple(row[:length].tolist())
        if not exists[image, beam]:
            assert length == 0
            assert result.scores[image, beam] == np.float32(NEVER)
            assert not result.satisfied[image, beam]
        else:
            assert not {PAD, BOS, UNK} & set(tokens)
            assert EOS not in tokens[:-1]
            assert length == max_length or tokens[-1] == EOS
        by_hand = chain.word_log_probs(image, tokens)
        np.testing.assert_allclose(result.word_log_probs[image, beam, :length], by_hand, atol=1e-4)
        assert not np.any(result.word_log_probs[image, beam, length:])
        np.testing.assert_allclose(log_probs[image, beam], sum(by_hand), atol=1e-4)
        # The weights of the step that chose the word: it read the word before.
        weights = [
            [100.0 * image + 10.0 * t, last + 1.0] for t, last in enumerate((BOS, *tokens)[:-1])
        ]
        np.testing.assert_array_equal(
            result.weights[image, beam, :length], np.reshape(weights, (length, POSITIONS))
        )
        assert not np.any(result.weights[image, beam, length:])


def count_steps(search: Any, chain: Chain) -> tuple[int, SearchResult]:
    """How often `search(step, carry)` calls the step function while it runs."""
    calls = []

    def step(carry: Any, tokens: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return chain.step(carry, tokens)

    result = jax.block_until_ready(search(step, chain.carry))
    jax.effects_barrier()
    return len(calls), result


def only(rows: Any, image: int) -> Any:
    """A tree `[B, …]` cut to one image."""
    return jax.tree.map(lambda x: x[image : image + 1], rows)
