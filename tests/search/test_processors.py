"""Every rule against its definition in plain Python, and against models that want to break it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.search import beam_search, greedy_search, sample
from jaxcap.search.interface import NEVER, Processor
from jaxcap.search.processors import (
    never,
    no_ending_on,
    no_repeated_ngram,
    no_repetition,
)

PAD, BOS, EOS, UNK = range(4)
SIZE = 8
LENGTH = 7
WORDS = range(4, SIZE)

Breaks = Callable[[list[int], int], bool]
"""Whether this word may not follow the words so far."""


def _repeats(words: list[int], word: int) -> bool:
    return words[-1:] == [word]


def _repeats_ngram(n: int) -> Breaks:
    def breaks(words: list[int], word: int) -> bool:
        after = [*words, word]
        ngrams = [tuple(after[i : i + n]) for i in range(len(after) - n + 1)]
        return ngrams[-1:] != [] and ngrams[-1] in ngrams[:-1]

    return breaks


def _ends_on(ids: Sequence[int]) -> Breaks:
    def breaks(words: list[int], word: int) -> bool:
        ended = word == EOS and bool(words) and words[-1] in ids
        return ended or (word in ids and len(words) >= LENGTH - 2)

    return breaks


RULES: dict[str, tuple[Processor, Breaks]] = {
    "never": (never([UNK, 5, 7]), lambda words, word: word in (UNK, 5, 7)),
    "never, of no words": (never([]), lambda words, word: False),
    "no repetition": (no_repetition(), _repeats),
    **{f"no repeated {n}-gram": (no_repeated_ngram(n), _repeats_ngram(n)) for n in range(1, 10)},
    "no repeated word but two": (
        no_repeated_ngram(1, allowed=[4, 6]),
        lambda words, word: word in words and word not in (4, 6),
    ),
    "no ending": (no_ending_on([4, 6]), _ends_on([4, 6])),
}
JITTED = {name: jax.jit(rule) for name, (rule, _) in RULES.items()}


@st.composite
def beginnings(draw: st.DrawFn) -> list[list[int]]:
    """Six captions of equally many words, of which there are four, so that many repeat."""
    time = draw(st.integers(0, LENGTH - 1))
    caption = st.lists(st.sampled_from(WORDS), min_size=time, max_size=time)
    return draw(st.lists(caption, min_size=6, max_size=6))


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
@hypothesis.given(captions=beginnings())
@hypothesis.settings(deadline=None, max_examples=60)
def test_a_rule_rules_out_what_breaks_it_and_nothing_else(
    name: str, captions: list[list[int]]
) -> None:
    time = len(captions[0])
    tokens = np.full((2, 3, LENGTH), PAD, np.int32)
    tokens[..., :time] = np.reshape(captions, (2, 3, time))
    log_probs = np.log(np.random.default_rng(time).dirichlet(np.ones(SIZE), (2, 3)))
    log_probs = log_probs.astype(np.float32)
    expected = log_probs.copy()
    for row, words in zip(expected.reshape(6, SIZE), captions, strict=True):
        row[[RULES[name][1](words, word) for word in range(SIZE)]] = NEVER
    np.testing.assert_array_equal(JITTED[name](log_probs, tokens, time), expected)


def test_an_overlapping_ngram_counts() -> None:
    """ "very very very" holds "very very" twice, as worked by hand."""
    tokens = jnp.array([[[4, 4, PAD, PAD]]])
    log_probs = no_repeated_ngram(2)(jnp.zeros((1, 1, SIZE)), tokens, jnp.array(2))
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(log_probs)), [4])


@pytest.mark.parametrize("rule", [never, no_ending_on])
@pytest.mark.parametrize("ids", [[-1], [4, SIZE]])
def test_words_outside_the_vocabulary_are_named(rule: Any, ids: list[int]) -> None:
    with pytest.raises(
        ValueError, match=rf"\[{ids[-1]}\] are out of range; the vocabulary has {SIZE}"
    ):
        rule(ids)(jnp.zeros((1, 1, SIZE)), jnp.zeros((1, 1, LENGTH), jnp.int32), jnp.array(0))


def test_an_ngram_has_words() -> None:
    with pytest.raises(ValueError, match="not 0"):
        no_repeated_ngram(0)


# Models that want to break the rules.


class _Output(NamedTuple):
    logits: Any
    weights: Any


def _stubborn(next_words: dict[int, Sequence[int]]) -> Any:
    """A step function that after each word wants the listed ones, the first most, and no others.

    What it wants is 20 nats likelier than the rest; so it breaks a rule unless the rule holds.
    """
    logits = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    for word, wanted in next_words.items():
        logits[word, list(wanted)] += 20 + np.linspace(5, 0, len(wanted))

    def step(carry: Any, tokens: Any) -> Any:
        return carry, _Output(jnp.asarray(logits)[tokens], jnp.zeros((*tokens.shape, 1)))

    return step


def _searches(step: Any, processors: Sequence[Processor]) -> list[list[int]]:
    """The captions of two images by each search, without padding."""
    carry = jnp.zeros((2, 1, 1))
    options: Any = {"max_length": LENGTH, "processors": processors}
    results = [
        greedy_search(step, carry, **options),
        beam_search(step, carry, beam_size=3, **options),
        sample(step, carry, jax.random.split(jax.random.key(0)), n=8, **options),
    ]
    rows = [row for r in results for row in np.asarray(r.tokens).reshape(-1, LENGTH).tolist()]
    return [[word for word in row if word != PAD] for row in rows]


ADVERSARIES: dict[str, dict[int, Sequence[int]]] = {
    "one word for ever": {word: [4] for word in range(SIZE)},
    "two words in turn": {BOS: [4], 4: [5], 5: [4], 6: [4], 7: [4]},
    "three words in turn": {BOS: [4], 4: [5], 5: [6], 6: [4], 7: [4]},
    "an end after a function word": {BOS: [5], 4: [EOS], 5: [4], 6: [EOS], 7: [4]},
    "a function word at the cut": {BOS: [5], 4: [5], 5: [7], 6: [4], 7: [5, 4]},
}


@pytest.mark.slow
@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("name", [n for n in RULES if n != "never, of no words"])
def test_no_search_breaks_a_rule_however_much_the_model_wants_to(name: str, adversary: str) -> None:
    rule, breaks = RULES[name]
    for words in _searches(_stubborn(ADVERSARIES[adversary]), [rule]):
        if name == "no repeated 1-gram" and len(words) > len(WORDS):
            assert words[-1] == EOS  # no word is left
        assert not any(breaks(words[:i], word) for i, word in enumerate(words))
        if name == "no ending":
            spoken = [word for word in words if word != EOS]
            assert not spoken or spoken[-1] not in (4, 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "adversary"),
    [
        ("never", "a function word at the cut"),
        ("no repetition", "one word for ever"),
        ("no repeated 1-gram", "one word for ever"),
        ("no repeated 2-gram", "two words in turn"),
        ("no repeated 3-gram", "three words in turn"),
        ("no ending", "an end after a function word"),
    ],
)
def test_without_the_rule_the_models_do_break_it(name: str, adversary: str) -> None:
    breaks = RULES[name][1]
    for words in _searches(_stubborn(ADVERSARIES[adversary]), [])[:1]:
        assert any(breaks(words[:i], word) for i, word in enumerate(words))


@pytest.mark.slow
def test_all_rules_together_hold_and_leave_the_log_probabilities_alone() -> None:
    rules = [RULES[n] for n in ("never", "no repetition", "no repeated 2-gram", "no ending")]
    step = _stubborn(ADVERSARIES["one word for ever"])
    result = beam_search(
        step,
        jnp.zeros((1, 1, 1)),
        beam_size=2,
        max_length=LENGTH,
        processors=[rule for rule, _ in rules],
    )
    logits = np.asarray(step(None, np.arange(SIZE))[1].logits, np.float64)
    by_hand = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for words, found in zip(
        np.asarray(result.tokens[0]).tolist(), np.asarray(result.word_log_probs[0]), strict=True
    ):
        words = [word for word in words if word != PAD]
        for i, word in enumerate(words):
            allowed = [
                other
                for other in range(SIZE)
                if other not in (PAD, BOS, UNK)
                and not any(breaks(words[:i], other) for _, breaks in rules)
            ]
            assert word in (allowed or [EOS])  # where nothing is left, the caption ends
            last = words[i - 1] if i else BOS
            np.testing.assert_allclose(found[i], by_hand[last, word], rtol=1e-4, atol=1e-5)
