"""Scheduled sampling: its schedules by hand; at one end teacher forcing, at the other search."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.config import TrainConfig
from jaxcap.model.decoders import AttentionDecoder, Decoder, LSTMDecoder, OwnWords, StepOutput
from jaxcap.search import greedy_search
from jaxcap.training.step.scheduled_sampling import (
    ScheduledSampling,
    predict_words,
    scheduled_sampling,
)

B, N, T, P, D, V = 2, 3, 6, 4, 5, 11
SIZES: dict[str, Any] = {"vocabulary_size": V, "hidden_size": 8, "embedding_size": 7}
DECODERS: dict[str, Decoder] = {
    "lstm": LSTMDecoder(**SIZES, output_dropout=0.5, embedding_dropout=0.3),
    "attention": AttentionDecoder(
        **SIZES, attention_size=9, output_dropout=0.5, embedding_dropout=0.3
    ),
}
every_decoder = pytest.mark.parametrize("name", DECODERS)


@pytest.mark.parametrize(
    ("schedule", "k", "c", "expected"),
    [
        ("linear", 0.9, 0.1, {0: 0.9, 4: 0.5, 8: 0.25, 1000: 0.25}),
        ("exponential", 0.5, 0.0, {0: 1.0, 1: 0.5, 2: 0.25, 1000: 0.25}),
        # 4 / (4 + exp(i / 4))
        (
            "inverse_sigmoid",
            4.0,
            0.0,
            {0: 0.8, 4: 4 / (4 + np.e), 8: 4 / (4 + np.e**2), 1000: 0.25},
        ),
    ],
)
def test_the_three_schedules_by_hand(
    schedule: Any, k: float, c: float, expected: dict[int, float]
) -> None:
    train = TrainConfig(sampling=schedule, sampling_k=k, sampling_c=c, sampling_floor=0.25)
    sampling = scheduled_sampling(train, first_step=100)
    assert sampling is not None
    probabilities = [sampling.true_word_probability(jnp.asarray(100 + i)) for i in expected]
    np.testing.assert_allclose(probabilities, list(expected.values()), rtol=1e-4)


def test_without_a_schedule_there_is_no_sampling() -> None:
    assert scheduled_sampling(TrainConfig()) is None


@functools.cache
def _params(name: str) -> Any:
    features, tokens = _inputs()
    init = jax.jit(functools.partial(DECODERS[name].init, train=False))
    params = jax.device_get(init(jax.random.key(0), features, tokens))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + 0.5 * rng.normal(size=x.shape).astype(x.dtype), params)
    params["output"]["bias"][2] -= 3  # captions that do not end at once
    return params


def _inputs() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(B, P, D)), jnp.float32)
    tokens = rng.integers(4, V, (B, N, T))
    tokens[:, :, 0] = 1
    return features, jnp.asarray(tokens, jnp.int32)


@functools.partial(jax.jit, static_argnames=("name", "train", "greedy"))
def _read(
    name: str, params: Any, own: Any = None, *, train: bool = False, greedy: bool = True
) -> StepOutput:
    words = None
    if own is not None:
        words = OwnWords(own, jax.random.key(3), functools.partial(predict_words, greedy=greedy))
    features, tokens = _inputs()
    rngs = {"dropout": jax.random.key(2)} if train else None
    return DECODERS[name].apply(
        {"params": params}, features, tokens, train=train, own_words=words, rngs=rngs
    )


@pytest.mark.slow
@every_decoder
def test_no_own_word_is_teacher_forcing_to_the_bit(name: str) -> None:
    """Dropout included: choosing words uses none of its random numbers."""
    params = _params(name)
    forced = _read(name, params, train=True)
    scheduled = _read(name, params, np.zeros((B, N, T), bool), train=True, greedy=False)
    np.testing.assert_array_equal(scheduled.logits, forced.logits)
    np.testing.assert_array_equal(scheduled.weights, forced.weights)


@pytest.mark.slow
@every_decoder
def test_only_own_words_is_greedy_search(name: str) -> None:
    """All captions of an image read the words of greedy search, up to its `<eos>`."""
    decoder, variables = DECODERS[name], {"params": _params(name)}
    features, _ = _inputs()
    carry, context = decoder.apply(variables, features, train=False, method="start")
    found = greedy_search(
        lambda carry, tokens: decoder.apply(variables, carry, tokens, context, method="step"),
        carry,
        max_length=T,
    )
    logits = np.array(_read(name, variables["params"], np.ones((B, N, T), bool)).logits)
    logits[..., [0, 1, 3]] = -np.inf
    for image in range(B):
        expected = np.asarray(found.tokens[image, 0])
        length = int((expected != 0).sum())
        assert length > 1
        for caption in logits[image].argmax(-1):
            np.testing.assert_array_equal(caption[:length], expected[:length])
    forced = _read(name, variables["params"]).logits
    assert np.any(np.abs(logits[:, :, 1:, 4:] - forced[:, :, 1:, 4:]) > 1e-3)


@pytest.mark.slow
@every_decoder
def test_a_sampled_word_is_read_by_the_next_step(name: str) -> None:
    """Teacher forcing on the sampled words gives the logits they were sampled from."""
    params, read = _params(name), []

    def record(logits: Any, rng: Any) -> Any:
        words = predict_words(logits, rng, greedy=False)
        jax.debug.callback(lambda x: read.append(np.asarray(x)), words, ordered=True)
        return words

    features, tokens = _inputs()
    own = OwnWords(jnp.ones((B, N, T), bool), jax.random.key(5), record)
    decoder = DECODERS[name]
    free = decoder.apply({"params": params}, features, tokens, train=False, own_words=own)
    jax.effects_barrier()
    said = np.stack(read, axis=2)
    assert not np.isin(said, [0, 1, 3]).any()
    as_read = jnp.concatenate([tokens[:, :, :1], said[:, :, :-1]], axis=2)
    forced = decoder.apply({"params": params}, features, as_read, train=False)
    np.testing.assert_allclose(free.logits, forced.logits, atol=1e-5)
    assert len({tuple(x) for x in said.reshape(-1, T)}) > B  # not one caption for each image


@pytest.mark.slow
def test_no_gradient_passes_through_the_choice_of_a_word() -> None:
    """Greedy words are as constant as true ones: the gradients are those of forcing them."""
    params = _params("lstm")
    features, tokens = _inputs()
    logits = np.array(_read("lstm", params, np.ones((B, N, T), bool)).logits)
    logits[..., [0, 1, 3]] = -np.inf
    said = jnp.asarray(logits.argmax(-1), jnp.int32)
    as_read = jnp.concatenate([tokens[:, :, :1], said[:, :, :-1]], axis=2)
    own = OwnWords(
        jnp.ones((B, N, T), bool), jax.random.key(5), functools.partial(predict_words, greedy=True)
    )

    def total(params: Any, tokens: Any, own_words: Any) -> Any:
        output = DECODERS["lstm"].apply(
            {"params": params}, features, tokens, train=False, own_words=own_words
        )
        return jnp.sin(output.logits).sum()

    free = jax.grad(total)(params, tokens, own)
    forced = jax.grad(total)(params, as_read, None)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), free, forced)


@pytest.mark.parametrize("words", ["sampled", "greedy"])
def test_coins_fall_by_the_probability(words: Literal["sampled", "greedy"]) -> None:
    sampling = ScheduledSampling("linear", 0.7, words=words)
    own = sampling.own_words(0, jax.random.key(0), jnp.zeros((20, 10, 50), jnp.int32))
    # 10,000 coins: five standard deviations are 0.023.
    np.testing.assert_allclose(own.where.mean(), 0.3, atol=0.023)
    logits = jnp.log(jnp.array([9.0, 9.0, 1.0, 9.0, 3.0])) * jnp.ones((100, 100, 1))
    said = own.choose(logits, jax.random.key(1))
    assert set(np.unique(said)) == ({2, 4} if words == "sampled" else {4})
    expected = 0.75 if words == "sampled" else 1.0
    np.testing.assert_allclose((said == 4).mean(), expected, atol=0.022)
