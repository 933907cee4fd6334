"""Recognised words as annotation vectors, alone and in the attention decoder."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family import WIDE, A, B, D, E, H, N, P, T, V, inputs

from jaxcap.config import DecoderConfig
from jaxcap.messages.errors import InputError
from jaxcap.model.decoders import AttentionDecoder, create_decoder
from jaxcap.model.decoders.word_annotations import Copies, CopyScores
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.search.interface import NEVER, repeat_captions
from jaxcap.text.vocabulary import PAD

K = 3
# The second image has two words; `<pad>` with probability 0 fills its row.
WORDS = RecognisedWords(
    np.array([[5, 9, 7], [8, 4, 0]], np.int32),
    np.array([[0.9, 0.5, 0.2], [1.0, 0.01, 0.0]], np.float32),
)
NONE = RecognisedWords(np.zeros((B, K), np.int32), np.zeros((B, K), np.float32))
Tree = Any


@pytest.fixture(params=["additive", "dot"])
def decoder(request: pytest.FixtureRequest) -> AttentionDecoder:
    return AttentionDecoder(scoring=request.param, reads_words=True, **WIDE)


@functools.cache
def random_params(decoder: AttentionDecoder) -> Tree:
    params = jax.eval_shape(
        lambda: decoder.init(jax.random.key(0), *inputs(), words=WORDS, train=False)
    )["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), params)


@functools.partial(jax.jit, static_argnames=("decoder", "train"))
def logits_and_weights(
    decoder: AttentionDecoder,
    params: Tree,
    features: Any,
    words: Any,
    *,
    train: bool = False,
) -> Any:
    return decoder.apply(
        {"params": params},
        features,
        inputs()[1],
        words=words,
        train=train,
        rngs={"dropout": jax.random.key(0)},
    )


@functools.partial(jax.jit, static_argnames="decoder")
def start(decoder: AttentionDecoder, params: Tree, features: Any, words: Any) -> Any:
    return decoder.apply({"params": params}, features, words, train=False, method="start")


def assert_close(one: Any, other: Any) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, other)


def numpy_annotations(params: Tree, words: RecognisedWords) -> np.ndarray:
    """Return relu(W [E w; p; logit p] + b), in float64, with p bounded by 0.001 and 0.999."""
    embedding = np.float64(params["word_embed"]["embedding"])
    kernel, bias = (np.float64(params["words"]["Dense_0"][x]) for x in ("kernel", "bias"))
    found = np.zeros((*words.ids.shape, A))
    for b, k in np.ndindex(*words.ids.shape):
        p = float(words.probabilities[b, k])
        bounded = min(max(p, 0.001), 0.999)
        x = [*embedding[words.ids[b, k]], p, np.log(bounded / (1 - bounded))]
        found[b, k] = np.maximum(x @ kernel + bias, 0)
    return found


def test_annotations_are_the_equation(decoder: AttentionDecoder) -> None:
    params, features = random_params(decoder), inputs()[0]
    assert params["words"]["Dense_0"]["kernel"].shape == (E + 2, A)
    carry, context = start(decoder, params, features, WORDS)
    annotations = numpy_annotations(params, WORDS)
    np.testing.assert_allclose(context.annotations[:, P:], annotations, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(context.words, np.where(WORDS.probabilities, WORDS.ids, PAD))
    assert (np.asarray(context.words) == PAD).tolist() == [[False] * 3, [False, False, True]]
    assert context.positions == P
    # c and h start from the image alone.
    expected, without = start(decoder, params, features, None)
    assert_close(carry, expected)
    assert_close(context.annotations[:, :P], without.annotations)


def test_saying_and_copying_share_a_softmax() -> None:
    """Against the equation in float64: exp of a logit is exp g + Σ exp ψ of that word."""
    rng = np.random.default_rng(3)
    g, psi = rng.normal(0, 2, (B, N, T, V)), rng.normal(0, 2, (B, N, T, K))
    expected = np.exp(g)
    for b, k in np.ndindex(B, K):
        if WORDS.probabilities[b, k]:
            expected[b, :, :, WORDS.ids[b, k]] += np.exp(psi[b, :, :, k])
    scores = np.where(WORDS.probabilities[:, None, None] > 0, psi, NEVER)
    copies = Copies(jnp.float32(scores), jnp.asarray(WORDS.ids))
    np.testing.assert_allclose(copies.added_to(jnp.float32(g)), np.log(expected), atol=1e-5)
    # One step has no time axis.
    one = Copies(jnp.float32(scores[:, :, 0]), jnp.asarray(WORDS.ids))
    np.testing.assert_allclose(
        one.added_to(jnp.float32(g[:, :, 0])), np.log(expected)[:, :, 0], atol=1e-5
    )


def test_copy_scores_are_the_equation(decoder: AttentionDecoder) -> None:
    rng, width = np.random.default_rng(4), decoder.hidden_size
    h, annotations = rng.normal(0, 1, (B, N, width)), rng.normal(0, 1, (B, K, A))
    present = WORDS.probabilities > 0
    scorer = CopyScores(A)
    given = (jnp.float32(h), jnp.float32(annotations), jnp.asarray(present))
    params = scorer.init(jax.random.key(0), *given)["params"]
    keys, query = (np.float64(params[f"Dense_{i}"]["kernel"]) for i in (0, 1))
    expected = np.einsum("bna,bka->bnk", h @ query, annotations @ keys) / A**0.5 - 4.0
    found = scorer.apply({"params": params}, *given)
    everywhere = np.broadcast_to(present[:, None], found.shape)
    np.testing.assert_allclose(found[everywhere], expected[everywhere], rtol=1e-4, atol=1e-5)
    assert (np.asarray(found)[~everywhere] == NEVER).all()


def test_attention_is_a_softmax_over_positions_and_present_words(decoder: AttentionDecoder) -> None:
    params = random_params(decoder)
    _, context = start(decoder, params, inputs()[0], WORDS)
    h = np.random.default_rng(3).normal(size=(B, N, H)).astype(np.float32)
    attend = jax.jit(functools.partial(decoder.apply, method="attend"))
    z, weights = attend({"params": params}, h, context)
    keys, a = np.float64(context.keys), np.float64(context.annotations)
    query = h @ np.float64(params["query"]["kernel"])
    for b, n in np.ndindex(B, N):
        present = P + (K if b == 0 else 2)
        if decoder.scoring == "dot":
            e = keys[b, :present] @ query[b, n] / np.sqrt(A)
        else:
            e = np.tanh(keys[b, :present] + query[b, n]) @ params["score"]["kernel"][:, 0]
        alpha = np.exp(e) / np.exp(e).sum()
        np.testing.assert_allclose(weights[b, n, :present], alpha, rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(weights[b, n, present:], 0)
        np.testing.assert_allclose(z[b, n], alpha @ a[b, :present], rtol=1e-3, atol=1e-5)


def test_steps_give_the_logits_of_the_scan(decoder: AttentionDecoder) -> None:
    params, (features, tokens) = random_params(decoder), inputs()
    expected = logits_and_weights(decoder, params, features, WORDS)
    carry, context = start(decoder, params, features, WORDS)
    carry = repeat_captions(carry, N)
    step = jax.jit(functools.partial(decoder.apply, method="step"))
    outputs = []
    for t in range(T):
        carry, output = step({"params": params}, carry, tokens[:, :, t], context)
        outputs.append(output)
    assert_close(jax.tree.map(lambda *x: jnp.stack(x, axis=2), *outputs), expected)
    # Attention to words is not shown as attention to the image.
    assert expected.weights.shape == (B, N, T, P)
    assert float(expected.weights.sum(axis=-1).max()) < 0.999


@pytest.mark.slow
def test_absent_words_change_nothing(decoder: AttentionDecoder) -> None:
    params, features = random_params(decoder), inputs()[0]
    without = logits_and_weights(decoder, params, features, None)
    assert_close(logits_and_weights(decoder, params, features, NONE), without)
    filled = NONE._replace(ids=WORDS.ids)
    assert_close(logits_and_weights(decoder, params, features, filled), without)
    wider = RecognisedWords(*(np.pad(x, ((0, 0), (0, 2))) for x in WORDS))
    given = logits_and_weights(decoder, params, features, WORDS)
    assert_close(logits_and_weights(decoder, params, features, wider), given)
    assert float(jnp.abs(given.logits - without.logits).max()) > 0.01


def test_words_are_a_set(decoder: AttentionDecoder) -> None:
    params, features = random_params(decoder), inputs()[0]
    turned = RecognisedWords(*(x[:, ::-1].copy() for x in WORDS))
    assert_close(
        logits_and_weights(decoder, params, features, turned),
        logits_and_weights(decoder, params, features, WORDS),
    )


@pytest.mark.slow
def test_words_can_be_read_without_an_image(decoder: AttentionDecoder) -> None:
    """The one learned position stands in for the image."""
    params = random_params(decoder)
    output = logits_and_weights(decoder, params, None, WORDS)
    assert output.logits.shape == (B, N, T, V)
    assert output.weights.shape == (B, N, T, 1)

    @jax.jit
    @jax.grad
    def gradient(params: Tree, words: RecognisedWords) -> Any:
        return jnp.square(logits_and_weights(decoder, params, None, words).logits).sum()

    grads = gradient(params, WORDS)
    assert np.abs(grads["no_image"]).max() > 1e-3
    np.testing.assert_array_equal(grads["project"]["kernel"], 0)
    # Without words there is only that position, and no attention to learn.
    alone = logits_and_weights(decoder, params, None, NONE)
    np.testing.assert_allclose(alone.weights, 1, rtol=1e-6)
    np.testing.assert_array_equal(gradient(params, NONE)["words"]["Dense_0"]["kernel"], 0)


def test_words_withheld_in_training_are_absent(decoder: AttentionDecoder) -> None:
    params, features = random_params(decoder), inputs()[0]
    withheld = dataclasses.replace(decoder, word_dropout=1.0)
    assert_close(
        logits_and_weights(withheld, params, features, WORDS, train=True),
        logits_and_weights(decoder, params, features, None),
    )
    assert_close(
        logits_and_weights(withheld, params, features, WORDS),
        logits_and_weights(decoder, params, features, WORDS),
    )


@pytest.mark.slow
def test_images_withheld_in_training_are_not_read(decoder: AttentionDecoder) -> None:
    params, features = random_params(decoder), inputs()[0]
    withheld = dataclasses.replace(decoder, image_dropout=1.0)
    one, other = (
        logits_and_weights(withheld, params, x, WORDS, train=True) for x in (features, -features)
    )
    assert_close(one, other)
    # The learned vector stands at each of the P positions.
    np.testing.assert_allclose(one.weights, one.weights[..., :1].repeat(P, axis=-1), rtol=1e-5)
    assert_close(
        logits_and_weights(withheld, params, features, WORDS),
        logits_and_weights(decoder, params, features, WORDS),
    )


def test_a_share_of_the_words_and_of_the_images_is_withheld() -> None:
    decoder = AttentionDecoder(reads_words=True, word_dropout=0.25, image_dropout=0.4, **WIDE)
    params, images = random_params(decoder), 2000
    words = RecognisedWords(
        np.full((images, 4), 5, np.int32), np.full((images, 4), 0.5, np.float32)
    )
    features = np.ones((images, 2, D), np.float32)
    withhold = jax.jit(functools.partial(decoder.apply, train=True, method="start"))
    rngs = {"dropout": jax.random.key(0)}
    _, context = withhold({"params": params}, features, words, rngs=rngs)
    assert np.mean(context.words != PAD) == pytest.approx(0.75, abs=0.02)
    whole = (np.asarray(context.annotations[:, :2]) == params["no_image"]).all(axis=2)
    np.testing.assert_array_equal(whole[:, 0], whole[:, 1])  # an image is withheld as a whole
    assert whole.mean() == pytest.approx(0.4, abs=0.04)


def test_a_decoder_without_recognised_words_keeps_its_parameters() -> None:
    plain = AttentionDecoder(**WIDE)
    params = jax.eval_shape(lambda: plain.init(jax.random.key(0), *inputs(), train=False))["params"]
    reading = random_params(AttentionDecoder(reads_words=True, **WIDE))
    assert set(reading) - set(params) == {"words", "no_image", "copy_scores"}
    assert set(params) <= set(reading)


def test_only_decoders_that_read_words_are_given_some() -> None:
    assert create_decoder(DecoderConfig(name="attention"), V, reads_words=True).reads_words
    assert not create_decoder(DecoderConfig(name="attention"), V).reads_words
    with pytest.raises(InputError, match="which reads no recognised words"):
        create_decoder(DecoderConfig(name="lstm"), V, reads_words=True)
