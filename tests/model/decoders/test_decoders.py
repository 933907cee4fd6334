"""Every decoder, and both ways of scoring: one step, two drivers."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configurations import changed
from equations import (
    adaptive,
    attention_on_attention,
    sca,
    show_and_tell,
    show_attend_and_tell,
    top_down,
)
from family import (
    DECODERS,
    OTHERS,
    A,
    B,
    D,
    E,
    H,
    N,
    P,
    T,
    V,
    every_decoder,
    inputs,
    random_params,
    scan,
    stepwise,
)

from jaxcap.config import Config, DecoderConfig, validate
from jaxcap.messages.errors import InputError
from jaxcap.model.decoders import (
    AdaptiveDecoder,
    AoADecoder,
    AttentionDecoder,
    Decoder,
    LSTMDecoder,
    SCADecoder,
    TopDownDecoder,
    create_decoder,
)
from jaxcap.search import beam_search


@pytest.mark.slow
@every_decoder
def test_scan_and_steps_agree(decoder: Decoder) -> None:
    scanned = scan(decoder, random_params(decoder), *inputs())
    stepped = stepwise(decoder, random_params(decoder), *inputs())
    assert scanned.logits.shape == (B, N, T, V)
    assert np.std(scanned.logits) > 0.1
    np.testing.assert_allclose(scanned.logits, stepped.logits, atol=1e-5)
    np.testing.assert_allclose(scanned.weights, stepped.weights, atol=1e-5)


@pytest.mark.slow
@every_decoder
def test_captions_of_an_image_do_not_see_each_other(decoder: Decoder) -> None:
    features, tokens = inputs()
    params = random_params(decoder)
    together = scan(decoder, params, features, tokens)
    for n in range(N):
        alone = scan(decoder, params, features, tokens[:, n : n + 1])
        np.testing.assert_allclose(together.logits[:, n : n + 1], alone.logits, atol=1e-5)
    other = scan(decoder, params, features, tokens.at[:, 0].add(1) % V)
    np.testing.assert_array_equal(together.logits[:, 1:], other.logits[:, 1:])
    assert np.all(np.any(together.logits[:, 0] != other.logits[:, 0], axis=-1))


@pytest.mark.slow
@every_decoder
def test_images_do_not_see_each_other(decoder: Decoder) -> None:
    features, tokens = inputs()
    together = scan(decoder, random_params(decoder), features, tokens)
    other = scan(decoder, random_params(decoder), features.at[0].add(1.0), tokens)
    np.testing.assert_allclose(together.logits[1], other.logits[1], atol=1e-6)
    assert np.all(np.any(together.logits[0] != other.logits[0], axis=-1))  # the image matters


@every_decoder
def test_a_word_changes_no_earlier_prediction(decoder: Decoder) -> None:
    features, tokens = inputs()
    logits = scan(decoder, random_params(decoder), features, tokens).logits
    changed = scan(decoder, random_params(decoder), features, tokens.at[:, :, 2].add(1) % V).logits
    np.testing.assert_array_equal(logits[:, :, :2], changed[:, :, :2])
    assert np.all(np.any(logits[:, :, 2:] != changed[:, :, 2:], axis=-1))


@every_decoder
def test_attention_weights_are_shares(decoder: Decoder) -> None:
    weights = scan(decoder, random_params(decoder), *inputs()).weights
    if isinstance(decoder, LSTMDecoder):
        assert weights.shape == (B, N, T, 0)
        return
    assert weights.shape == (B, N, T, P)
    assert np.all(weights > 0)
    if isinstance(decoder, AdaptiveDecoder):  # the rest is the sentinel's
        assert np.all(weights.sum(axis=-1) < 0.999)
    else:
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


EQUATIONS: dict[str, Any] = {
    "lstm": show_and_tell,
    "additive": show_attend_and_tell,
    "dot": show_attend_and_tell,
    "topdown": top_down,
    "adaptive": adaptive,
    "aoa": functools.partial(attention_on_attention, heads=3, layers=2),
    "sca": sca,
    "topdown, dot": top_down,
    "adaptive, dot": adaptive,
    "aoa, not refined": functools.partial(attention_on_attention, heads=1, layers=0),
    "sca, additive": sca,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EQUATIONS))
def test_every_equation_by_hand(name: str) -> None:
    decoder, (features, tokens) = (DECODERS | OTHERS)[name], inputs()
    output, params = scan(decoder, random_params(decoder), features, tokens), random_params(decoder)
    for b, n in np.ndindex(B, N):
        image, caption = np.asarray(features[b], np.float64), np.asarray(tokens[b, n])
        logits, weights = EQUATIONS[name](params, image, caption)
        np.testing.assert_allclose(output.logits[b, n], logits, atol=2e-5)
        np.testing.assert_allclose(output.weights[b, n], weights, atol=1e-5)


def test_what_the_sentinel_has_the_image_has_not() -> None:
    """With w = 1, W_g = Wₛ = 0 and a Wᵥ that saturates, e is 0 for it and −A for a position."""
    decoder, (features, tokens) = DECODERS["adaptive"], inputs()
    params = jax.tree.map(np.copy, random_params(decoder))
    params["scores"]["score"]["kernel"][:] = 1
    params["scores"]["query"]["kernel"][:] = 0
    params["sentinel_key"]["kernel"][:] = 0
    params["scores"]["key"]["kernel"][:] = -100
    weights = scan(decoder, params, features + 3, tokens).weights
    np.testing.assert_allclose(weights, np.exp(-A) / (1 + P * np.exp(-A)), rtol=1e-4)


def _dense_size(inputs: int, outputs: int, *, bias: bool = True) -> int:
    return inputs * outputs + bias * outputs


def _lstm_size(inputs: int) -> int:
    return 4 * (H * inputs + H * H + H)


def _mapping(inputs: int, outputs: int) -> int:
    return _dense_size(inputs, outputs, bias=False)


SIZES = {
    "lstm": _dense_size(D, E) + V * E + _lstm_size(E) + _dense_size(H, V),
    "dot": (
        2 * _mapping(H, A)  # query, and the gate's kernel
        + A  # the gate's bias
        + _dense_size(D, A)
        + _dense_size(A, A)
        + 2 * _dense_size(A, H)
        + V * E
        + _lstm_size(E + A)
        + _dense_size(H, E)
        + _mapping(A, E)
        + _dense_size(E, V)
    ),
    "topdown": (
        _dense_size(D, A)
        + V * E
        + _lstm_size(H + A + E)
        + (A * A + H * A + A)
        + _lstm_size(A + H)
        + _dense_size(H, V)
    ),
    "adaptive": (
        _dense_size(D, H)  # Wₐ
        + _dense_size(D, E)  # W_b
        + V * E
        + _lstm_size(E + E)
        + _mapping(E + E, H)  # Wₓ
        + _mapping(H, H)  # Wₕ
        + (3 * H * A + A)  # Wᵥ, W_g, Wₛ, w
        + _dense_size(H, V)
    ),
    "aoa": (
        _dense_size(D, A)
        + 2 * (3 * A * A + _dense_size(2 * A, 2 * A) + 2 * A)
        + (H * A + 2 * A * A)
        + _dense_size(2 * A, 2 * A)
        + V * E
        + _lstm_size(E + A)
        + _dense_size(A, V)
    ),
    "sca": (
        _dense_size(D, A)
        + 2 * _mapping(H, A)
        + 2 * _dense_size(A, H)
        + V * E
        + _lstm_size(E + A)
        + _dense_size(H, E)
        + _dense_size(E, V)
    ),
}
SIZES["additive"] = SIZES["dot"] + A  # v


@pytest.mark.parametrize("name", list(DECODERS))
def test_parameter_count(name: str) -> None:
    assert sum(x.size for x in jax.tree.leaves(random_params(DECODERS[name]))) == SIZES[name]


def test_positions_are_a_set_to_the_decoders() -> None:
    """Attention weights move with the positions; logits do not change."""
    order = np.array([2, 0, 3, 1])
    for decoder in DECODERS.values():
        features, tokens = inputs()
        output = scan(decoder, random_params(decoder), features, tokens)
        moved = scan(decoder, random_params(decoder), features[:, order], tokens)
        np.testing.assert_allclose(moved.logits, output.logits, atol=1e-5)
        if output.weights.shape[-1]:
            np.testing.assert_allclose(moved.weights, output.weights[..., order], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["topdown", "adaptive", "aoa", "sca"])
def test_beam_search_says_what_teacher_forcing_says(name: str) -> None:
    """Each word's log probability is that of a decoder that is given the words before it."""
    decoder, (features, _) = DECODERS[name], inputs()
    variables = {"params": random_params(decoder)}

    @jax.jit
    def search(features: Any) -> Any:
        carry, context = decoder.apply(variables, features, train=False, method="start")
        return beam_search(
            lambda carry, words: decoder.apply(variables, carry, words, context, method="step"),
            carry,
            beam_size=N,
            max_length=T,
        )

    found = search(features)
    words = np.asarray(found.tokens)
    read = np.concatenate([np.ones((B, N, 1), np.int32), words[:, :, :-1]], axis=2)
    output = scan(decoder, random_params(decoder), features, jnp.asarray(read))
    log_probs = np.take_along_axis(np.asarray(nn.log_softmax(output.logits)), words[..., None], 3)
    real = words != 0
    assert real.any(axis=2).all()
    np.testing.assert_allclose(
        found.word_log_probs, np.where(real, log_probs[..., 0], 0), atol=1e-5
    )
    np.testing.assert_allclose(
        found.weights, np.where(real[..., None], output.weights, 0), atol=1e-5
    )


@pytest.mark.parametrize("name", ["lstm", "attention", "topdown", "adaptive", "aoa", "sca"])
def test_a_configuration_reaches_the_module(name: str) -> None:
    config = DecoderConfig(
        name=name,  # type: ignore[arg-type]
        hidden_size=1,
        embedding_size=2,
        attention_size=3,
        scoring="dot",
        heads=4,
        refiner_layers=5,
        embedding_dropout=0.1,
        feature_dropout=0.2,
        output_dropout=0.3,
        dtype="bfloat16",
    )
    common: Any = {
        "vocabulary_size": 50,
        "hidden_size": 1,
        "embedding_size": 2,
        "embedding_dropout": 0.1,
        "feature_dropout": 0.2,
        "output_dropout": 0.3,
        "dtype": jnp.dtype("bfloat16"),
    }
    scored = common | {"attention_size": 3, "scoring": "dot"}
    expected: dict[str, Decoder] = {
        "lstm": LSTMDecoder(**common),
        "attention": AttentionDecoder(**scored),
        "topdown": TopDownDecoder(**scored),
        "adaptive": AdaptiveDecoder(**scored),
        "aoa": AoADecoder(attention_size=3, heads=4, refiner_layers=5, **common),
        "sca": SCADecoder(**scored),
    }
    assert create_decoder(config, 50) == expected[name]


@pytest.mark.slow
def test_heads_must_divide_the_width() -> None:
    config = Config(decoder=DecoderConfig(name="aoa", attention_size=20, heads=8))
    with pytest.raises(InputError, match=r"decoder.heads is 8.*attention_size of 20"):
        validate(config)
    validate(changed(config, decoder__heads=5))
    validate(changed(config, decoder__name="topdown"))
