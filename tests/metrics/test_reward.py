"""The self-critical reward against the definition, written out plainly, and by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from jaxcap.messages.errors import InputError
from jaxcap.metrics import bleu, cider_d
from jaxcap.metrics.reward import CiderReward

PAD, BOS, EOS = 0, 1, 2

Tokens = tuple[int, ...]


def grams(tokens: Tokens, n: int) -> Counter[Tokens]:
    return Counter(tokens[i : i + n] for i in range(len(tokens) - n + 1))


def plain_cider_d(sample: Tokens, references: list[Tokens], training: list[list[Tokens]]) -> float:
    """Vedantam et al. 2015, section 8, with the document frequencies of `training`."""
    total = 0.0
    for reference in references:
        for n in range(1, 5):

            def vector(tokens: Tokens, n: int = n) -> dict[Tokens, float]:
                return {
                    gram: count
                    * math.log(
                        len(training)
                        / max(1, sum(any(gram in grams(r, n) for r in refs) for refs in training))
                    )
                    for gram, count in grams(tokens, n).items()
                }

            c, s = vector(sample), vector(reference)
            norms = math.sqrt(sum(w * w for w in c.values()) * sum(w * w for w in s.values()))
            if norms:
                clipped = sum(min(w, s[gram]) * s[gram] for gram, w in c.items() if gram in s)
                delta = len(sample) - len(reference)
                total += 10 / 4 * math.exp(-(delta**2) / 72) * clipped / norms
    return total / len(references)


def padded(rows: list[list[int]], length: int) -> np.ndarray:
    return np.array([row + [PAD] * (length - len(row)) for row in rows], np.int32)


@pytest.fixture(scope="module")
def training() -> list[list[list[int]]]:
    rng = np.random.default_rng(0)

    def caption() -> list[int]:
        return [*rng.integers(4, 12, rng.integers(1, 9)).tolist(), EOS]

    return [[caption() for _ in range(rng.integers(1, 6))] for _ in range(12)]


def test_equals_the_definition_with_the_document_frequencies_given(
    training: list[list[list[int]]],
) -> None:
    rng = np.random.default_rng(1)
    images = np.array([3, 0, 11, 3])  # one of them twice
    samples = rng.integers(4, 15, (4, 5, 9)).astype(np.int32)  # 12 … 14 are in no reference
    samples[rng.random(samples.shape) < 0.15] = EOS
    samples[0, 0] = padded([training[3][0]], 9)  # a reference itself
    reward = CiderReward.from_references(training, eos=EOS, ignored=(PAD, BOS))
    found = reward(images, samples)

    plain = [[tuple(r) for r in refs] for refs in training]
    for b, image in enumerate(images):
        for n in range(5):
            row = samples[b, n].tolist()
            said = tuple(row[: row.index(EOS) + 1] if EOS in row else row)
            expected = plain_cider_d(said, plain[image], plain)
            assert found[b, n] == pytest.approx(expected, abs=1e-9)


def test_over_the_training_images_it_is_cider_d_with_the_end_as_a_word(
    training: list[list[list[int]]],
) -> None:
    rng = np.random.default_rng(2)
    said = [[*rng.integers(4, 12, rng.integers(0, 8)).tolist(), EOS] for _ in training]
    reward = CiderReward.from_references(training, eos=EOS, ignored=(PAD,))
    found = reward(np.arange(12), padded(said, 9)[:, None])
    words = [[str(w) for w in row] for row in said]
    references = [[[str(w) for w in r] for r in refs] for refs in training]
    assert 100 * found[:, 0] == pytest.approx(cider_d(words, references).per_image, abs=1e-7)

    mixed = CiderReward.from_references(training, eos=EOS, ignored=(PAD,), cider=0.25, bleu=2.0)
    bleu4 = 0.01 * np.array(bleu(words, references).per_image)[:, 3]
    assert mixed(np.arange(12), padded(said, 9)[:, None])[:, 0] == pytest.approx(
        0.25 * found[:, 0] + 2.0 * bleu4, abs=1e-9
    )


def test_a_caption_that_ends_is_worth_more_than_one_broken_off() -> None:
    # "a dog on grass <eos>" (4 5 6 7) beside it without its end, and ended two words early.
    references = [[[4, 5, 6, 7, EOS]], [[8, 9, EOS]]]
    reward = CiderReward.from_references(references, eos=EOS, ignored=(PAD,))
    rows = padded([[4, 5, 6, 7, EOS], [4, 5, 6, 7], [4, 5, 6, EOS]], 5)
    whole, endless, early = reward(np.array([0]), rows[None])[0]
    assert whole == pytest.approx(10.0)
    assert whole > endless > early
    # By hand, w = log 2 for all but <eos>, which both images have: 4 of 4 words, 3 of 4 pairs,
    # 2 of 3 triples, 1 of 2 quadruples, each over √(ours · theirs); one word shorter.
    cosines = 1 + math.sqrt(3 / 4) + math.sqrt(2 / 3) + math.sqrt(1 / 2)
    assert endless == pytest.approx(10 / 4 * math.exp(-1 / 72) * cosines)


def test_padding_start_and_what_follows_the_end_are_not_read() -> None:
    references = [[[BOS, 4, 5, EOS, PAD]], [[BOS, 6, EOS, PAD, PAD]]]
    as_arrays = [np.array(each, np.int32) for each in references]
    rows = padded([[4, 5, EOS]], 5)[None]
    dirty = np.array([[[BOS, 4, 5, EOS, 6]]], np.int32)
    for given in (references, as_arrays):
        reward = CiderReward.from_references(given, eos=EOS, ignored=(PAD, BOS))
        assert reward(np.array([0]), rows) == pytest.approx(reward(np.array([0]), dirty))
    assert reward(np.array([0]), rows)[0, 0] == pytest.approx(7.5)  # no four-grams


def test_an_empty_sample_is_worth_nothing() -> None:
    reward = CiderReward.from_references([[[4, EOS]], [[5, EOS]]], eos=EOS, ignored=(PAD,))
    assert reward(np.array([1]), np.zeros((1, 2, 4), np.int32)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([], "no references to take"),
        ([[[4, EOS]], []], "Training image 1 has no references"),
        ([[[4, 5]], [[6]]], "No reference contains the end token 2"),
    ],
)
def test_what_is_wrong_with_references_is_said(references: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CiderReward.from_references(references, eos=EOS)


def test_an_image_beyond_the_training_split_is_refused() -> None:
    reward = CiderReward.from_references([[[4, EOS]]], eos=EOS)
    for image in (1, -1):
        with pytest.raises(InputError, match=f"Image {image} has no references.*from 0 to 0"):
            reward(np.array([image]), np.array([[[4, EOS]]], np.int32))
