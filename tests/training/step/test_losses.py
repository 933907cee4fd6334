"""The training objective against numbers worked by hand, numpy and finite differences."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.training.step.losses import (
    FORGETTING,
    Loss,
    attention_imbalance,
    cross_entropy,
    word_detection,
)


def _random(seed: int, shape: tuple[int, int, int, int]) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(3 * rng.normal(size=shape), jnp.float32)
    targets = jnp.asarray(rng.integers(0, shape[-1], shape[:-1]), jnp.int32)
    mask = jnp.asarray(rng.random(shape[:-1]) < 0.6)
    return logits, targets, mask


def test_two_words_by_hand() -> None:
    """p = (1/4, 3/4) and (1/2, 1/2): −log 3/4 − log 1/2 = log 8/3 = 0.980829…"""
    logits = jnp.array([[[[0.0, np.log(3.0)], [5.0, 5.0]]]])
    loss = cross_entropy(logits, jnp.array([[[1, 0]]]), jnp.array([[[True, True]]]))
    np.testing.assert_allclose(loss.total, 0.9808293, rtol=1e-6)
    assert loss.words == 2


def test_uniform_logits_cost_log_v_each() -> None:
    loss = cross_entropy(
        jnp.full((2, 3, 4, 7), 2.5), jnp.zeros((2, 3, 4), jnp.int32), jnp.ones((2, 3, 4), bool)
    )
    np.testing.assert_allclose(loss.total, 24 * np.log(7), rtol=1e-6)
    assert loss.words == 24


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_masked_is_the_subset(label_smoothing: float) -> None:
    logits, targets, mask = _random(0, (3, 2, 5, 6))
    loss = cross_entropy(logits, targets, mask, label_smoothing=label_smoothing)
    kept = logits[mask][None, None], targets[mask][None, None]
    alone = cross_entropy(*kept, jnp.ones(kept[1].shape, bool), label_smoothing=label_smoothing)
    np.testing.assert_allclose(loss.total, alone.total, rtol=1e-6)
    assert loss.words == alone.words == int(mask.sum())


def test_sums_of_parts_are_the_whole() -> None:
    logits, targets, mask = _random(1, (4, 2, 5, 6))
    whole = cross_entropy(logits, targets, mask)
    parts = [
        cross_entropy(logits[i : i + 1], targets[i : i + 1], mask[i : i + 1]) for i in range(4)
    ]
    total, words, _ = zip(*parts, strict=True)
    np.testing.assert_allclose(sum(total), whole.total, rtol=1e-6)
    assert sum(words) == whole.words


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_the_formula(label_smoothing: float) -> None:
    """−Σ q log p with q = (1 − ε) one-hot + ε / V, in float64."""
    logits, targets, mask = _random(2, (2, 3, 4, 5))
    z = np.asarray(logits, np.float64)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    q = (1 - label_smoothing) * np.eye(5)[np.asarray(targets)] + label_smoothing / 5
    expected = -(q * log_p).sum(-1)[np.asarray(mask)].sum()
    loss = cross_entropy(logits, targets, mask, label_smoothing=label_smoothing)
    np.testing.assert_allclose(loss.total, expected, rtol=1e-6)


def test_padding_costs_nothing_and_has_no_gradient() -> None:
    logits, targets, mask = _random(3, (1, 2, 3, 4))
    nothing = jnp.zeros_like(mask)
    loss = cross_entropy(logits, targets, nothing)
    grads = jax.grad(lambda x: cross_entropy(x, targets, nothing).total)(logits)
    assert loss.total == loss.words == 0
    assert not np.any(grads)


def test_only_real_words_have_a_gradient() -> None:
    logits, targets, mask = _random(4, (1, 2, 3, 4))
    mask = mask.at[0, 0, 0].set(False).at[0, 1].set(True)
    grads = jax.grad(lambda x: cross_entropy(x, targets, mask).total)(logits)
    assert not np.any(grads[~mask])
    assert np.all(np.any(grads[mask], axis=-1))


def test_huge_logits_stay_finite() -> None:
    logits = jnp.array([[[[1e4, 0.0, -1e4]]]])
    loss = cross_entropy(logits, jnp.array([[[1]]]), jnp.ones((1, 1, 1), bool))
    np.testing.assert_allclose(loss.total, 1e4, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_gradient_is_p_minus_q_and_agrees_with_finite_differences(label_smoothing: float) -> None:
    logits, targets, mask = _random(5, (1, 2, 3, 4))
    loss = functools.partial(
        cross_entropy, targets=targets, mask=mask, label_smoothing=label_smoothing
    )
    gradient = np.asarray(jax.grad(lambda x: loss(x).total)(logits))
    q = (1 - label_smoothing) * np.eye(4)[np.asarray(targets)] + label_smoothing / 4
    expected = (np.asarray(jax.nn.softmax(logits)) - q) * np.asarray(mask)[..., None]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    h = 1e-2
    for index in np.ndindex(logits.shape):
        above, below = (loss(logits.at[index].add(sign * h)).total for sign in (1, -1))
        np.testing.assert_allclose((above - below) / (2 * h), gradient[index], atol=2e-3)


def test_attention_imbalance_by_hand() -> None:
    """Two words on two positions: sums (0.9, 1.1), off by 0.1 each; the third word is padding."""
    weights = jnp.array([[[[0.2, 0.8], [0.7, 0.3], [0.5, 0.5]], [[0.5, 0.5]] * 3]])
    mask = jnp.array([[[True, True, False], [False] * 3]])
    # The second caption is padding alone, and adds nothing.
    np.testing.assert_allclose(attention_imbalance(weights, mask), 2 * 0.1**2, rtol=1e-5)
    # One word of an image of two positions can look at one of them only: 1² + 0² at best, or
    # (1/2)² twice.
    one = attention_imbalance(weights[:, 1:], jnp.array([[[True, False, False]]]))
    np.testing.assert_allclose(one, 0.5, rtol=1e-6)


def test_word_detection_is_binary_cross_entropy_of_words_in_any_caption() -> None:
    """A loop over images and words, in float64. The third image has no captions."""
    rng = np.random.default_rng(0)
    ids = (7, 4, 9, 5)  # not in order, and 6 and 8 cannot be recognised
    logits = rng.normal(0, 2, (3, 4)).astype(np.float32)
    targets = np.array([[[4, 8, 2], [4, 9, 6]], [[5, 2, 0], [0, 0, 0]], [[0, 0, 0]] * 2], np.int32)
    expected = 0.0
    for b, words in enumerate([{4, 8, 2, 9, 6}, {5, 2}]):
        for r, word in enumerate(ids):
            p = 1 / (1 + np.exp(-np.float64(logits[b, r])))
            expected -= np.log(p if word in words else 1 - p)
    args = jnp.asarray(targets), jnp.asarray(targets != 0)
    forgotten = np.float32([0.5, 0.25, 2.0])
    expected += FORGETTING * 0.75  # nothing is learned from an image without captions

    def detect(logits: Any) -> Loss:
        return word_detection((logits, jnp.asarray(forgotten)), *args, ids=ids)

    loss = detect(jnp.asarray(logits))
    np.testing.assert_allclose(loss.total, expected, rtol=1e-6)
    assert loss.words == 2 * 4
    gradient = jax.grad(lambda x: detect(x).total)(jnp.asarray(logits))
    contained = [[False, True, True, False], [False, False, False, True]]
    p = 1 / (1 + np.exp(-logits[:2]))
    np.testing.assert_allclose(gradient[:2], p - contained, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gradient[2], 0)


@pytest.mark.slow
def test_masked_words_are_not_contained() -> None:
    targets, mask = jnp.array([[[4, 5]]]), jnp.array([[[True, False]]])
    detection = jnp.array([[20.0, -20.0]]), jnp.zeros(1)
    loss = word_detection(detection, targets, mask, ids=(4, 5))
    np.testing.assert_allclose(loss.total, 0, atol=1e-6)  # sure of 4, and sure of no 5
