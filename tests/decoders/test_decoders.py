"""Both decoders, and both ways of scoring: one step, two drivers."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.config import DecoderConfig
from jaxcap.decoders import (
    AttentionDecoder,
    Decoder,
    LSTMDecoder,
    StepOutput,
    create_decoder,
    repeat,
)

B, N, T, P, D, H, E, A, V = 2, 3, 5, 4, 6, 8, 7, 9, 11

DECODERS = {
    "lstm": LSTMDecoder(vocabulary_size=V, hidden_size=H, embedding_size=E),
    **{
        scoring: AttentionDecoder(
            vocabulary_size=V,
            hidden_size=H,
            embedding_size=E,
            attention_size=A,
            scoring=scoring,
        )
        for scoring in ("additive", "dot")
    },
}
every_decoder = pytest.mark.parametrize("decoder", DECODERS.values(), ids=list(DECODERS))
Tree = Any


def _inputs(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    features = jnp.asarray(rng.normal(size=(B, P, D)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, V, (B, N, T)), jnp.int32)
    return features, tokens


@functools.cache
def _params(decoder: Decoder) -> Tree:
    """Random parameters; biases are made random too, or an error in one would not show."""
    features, tokens = _inputs()
    params = jax.jit(functools.partial(decoder.init, train=False))(
        jax.random.key(0), features, tokens
    )["params"]
    leaves, tree = jax.tree.flatten(jax.device_get(params))
    rng = np.random.default_rng(1)
    noise = [0.3 * rng.normal(size=x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(tree, [x + y for x, y in zip(leaves, noise, strict=True)])


@functools.partial(jax.jit, static_argnames=("decoder", "train"))
def _scan(
    decoder: Decoder, params: Tree, features: Any, tokens: Any, rng: Any = None, train: bool = False
) -> StepOutput:
    rngs = None if rng is None else {"dropout": rng}
    return decoder.apply({"params": params}, features, tokens, train=train, rngs=rngs)


def _stepwise(decoder: Decoder, params: Tree, features: Any, tokens: Any) -> StepOutput:
    """As search does it: `start`, then one jitted `step` after another."""
    variables = {"params": params}
    carry, context = decoder.apply(variables, features, train=False, method="start")
    carry = repeat(carry, tokens.shape[1])
    step = jax.jit(functools.partial(decoder.apply, method="step"))
    outputs = []
    for t in range(tokens.shape[2]):
        carry, output = step(variables, carry, tokens[:, :, t], context)
        outputs.append(output)
    return jax.tree.map(lambda *x: jnp.stack(x, axis=2), *outputs)


@every_decoder
def test_scan_and_steps_agree(decoder: Decoder) -> None:
    scanned = _scan(decoder, _params(decoder), *_inputs())
    stepped = _stepwise(decoder, _params(decoder), *_inputs())
    assert scanned.logits.shape == (B, N, T, V)
    assert np.std(scanned.logits) > 0.1
    np.testing.assert_allclose(scanned.logits, stepped.logits, atol=1e-5)
    np.testing.assert_allclose(scanned.weights, stepped.weights, atol=1e-5)


@every_decoder
def test_captions_of_an_image_do_not_see_each_other(decoder: Decoder) -> None:
    features, tokens = _inputs()
    params = _params(decoder)
    together = _scan(decoder, params, features, tokens)
    for n in range(N):
        alone = _scan(decoder, params, features, tokens[:, n : n + 1])
        np.testing.assert_allclose(together.logits[:, n : n + 1], alone.logits, atol=1e-5)
    other = _scan(decoder, params, features, tokens.at[:, 0].add(1) % V)
    np.testing.assert_array_equal(together.logits[:, 1:], other.logits[:, 1:])
    assert np.all(np.any(together.logits[:, 0] != other.logits[:, 0], axis=-1))


@every_decoder
def test_images_do_not_see_each_other(decoder: Decoder) -> None:
    features, tokens = _inputs()
    together = _scan(decoder, _params(decoder), features, tokens)
    other = _scan(decoder, _params(decoder), features.at[0].add(1.0), tokens)
    np.testing.assert_allclose(together.logits[1], other.logits[1], atol=1e-6)
    assert np.all(np.any(together.logits[0] != other.logits[0], axis=-1))  # the image matters


@every_decoder
def test_a_word_changes_no_earlier_prediction(decoder: Decoder) -> None:
    features, tokens = _inputs()
    logits = _scan(decoder, _params(decoder), features, tokens).logits
    changed = _scan(decoder, _params(decoder), features, tokens.at[:, :, 2].add(1) % V).logits
    np.testing.assert_array_equal(logits[:, :, :2], changed[:, :, :2])
    assert np.all(np.any(logits[:, :, 2:] != changed[:, :, 2:], axis=-1))


@pytest.mark.parametrize("scoring", ["additive", "dot"])
def test_attention_weights_sum_to_one(scoring: str) -> None:
    weights = _scan(DECODERS[scoring], _params(DECODERS[scoring]), *_inputs()).weights
    assert weights.shape == (B, N, T, P)
    assert np.all(weights > 0)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_the_lstm_decoder_has_no_attention() -> None:
    weights = _scan(DECODERS["lstm"], _params(DECODERS["lstm"]), *_inputs()).weights
    assert weights.shape == (B, N, T, 0)


# By hand, in numpy and float64 from the parameters, one equation after the other.


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _dense(params: Tree, x: Any) -> Any:
    return x @ params["kernel"].astype(np.float64) + params.get("bias", 0.0)


def _lstm(params: Tree, c: Any, h: Any, x: Any) -> tuple[Any, Any]:
    """Hochreiter and Schmidhuber 1997 with forget gates; Flax puts the bias on h."""
    i, f, g, o = (x @ params[f"i{k}"]["kernel"] + _dense(params[f"h{k}"], h) for k in "ifgo")
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    return c, _sigmoid(o) * np.tanh(c)


def _show_and_tell(params: Tree, features: Any, tokens: Any) -> Any:
    """Logits of one caption of one image."""
    image = _dense(params["image_embed"], features.mean(axis=0))
    c, h = _lstm(params["cell"], np.zeros(H), np.zeros(H), image)
    logits = []
    for token in tokens:
        c, h = _lstm(params["cell"], c, h, params["word_embed"]["embedding"][token])
        logits.append(_dense(params["output"], h))
    return np.stack(logits), np.zeros((len(tokens), 0))


def _show_attend_and_tell(params: Tree, features: Any, tokens: Any, scoring: str) -> Any:
    """Logits and attention weights of one caption of one image."""
    a = np.maximum(_dense(params["project"], features), 0)
    c = np.tanh(_dense(params["init_c"], a.mean(axis=0)))
    h = np.tanh(_dense(params["init_h"], a.mean(axis=0)))
    logits, weights = [], []
    for token in tokens:
        query, keys = _dense(params["query"], h), _dense(params["key"], a)
        if scoring == "additive":
            e = [float(_dense(params["score"], np.tanh(query + key))[0]) for key in keys]
        else:
            e = [float(query @ key) / 3.0 for key in keys]  # √A = √9
        alpha = np.exp(e) / np.exp(e).sum()
        z = sum(alpha[p] * a[p] for p in range(P)) * _sigmoid(_dense(params["gate"], h))
        y = params["word_embed"]["embedding"][token].astype(np.float64)
        c, h = _lstm(params["cell"], c, h, np.concatenate([y, z]))
        deep = y + _dense(params["output_h"], h) + _dense(params["output_z"], z)
        logits.append(_dense(params["output"], deep))
        weights.append(alpha)
    return np.stack(logits), np.stack(weights)


@pytest.mark.parametrize("name", list(DECODERS))
def test_every_equation_by_hand(name: str) -> None:
    decoder, (features, tokens) = DECODERS[name], _inputs()
    output, params = _scan(decoder, _params(decoder), features, tokens), _params(decoder)
    for b, n in np.ndindex(B, N):
        image, caption = np.asarray(features[b], np.float64), np.asarray(tokens[b, n])
        if name == "lstm":
            logits, weights = _show_and_tell(params, image, caption)
        else:
            logits, weights = _show_attend_and_tell(params, image, caption, name)
        np.testing.assert_allclose(output.logits[b, n], logits, atol=2e-5)
        np.testing.assert_allclose(output.weights[b, n], weights, atol=1e-5)


def _dense_size(inputs: int, outputs: int, *, bias: bool = True) -> int:
    return inputs * outputs + bias * outputs


def _lstm_size(inputs: int) -> int:
    return 4 * (H * inputs + H * H + H)


SIZES = {
    "lstm": _dense_size(D, E) + V * E + _lstm_size(E) + _dense_size(H, V),
    "dot": (
        2 * _dense_size(H, A, bias=False)  # query, and the gate's kernel
        + A  # the gate's bias
        + _dense_size(D, A)
        + _dense_size(A, A)
        + 2 * _dense_size(A, H)
        + V * E
        + _lstm_size(E + A)
        + _dense_size(H, E)
        + _dense_size(A, E, bias=False)
        + _dense_size(E, V)
    ),
}
SIZES["additive"] = SIZES["dot"] + A  # v


@pytest.mark.parametrize("name", list(DECODERS))
def test_parameter_count(name: str) -> None:
    assert sum(x.size for x in jax.tree.leaves(_params(DECODERS[name]))) == SIZES[name]


@pytest.mark.parametrize("dropout", ["embedding_dropout", "feature_dropout", "output_dropout"])
@every_decoder
def test_each_dropout_acts_in_training_only(decoder: Decoder, dropout: str) -> None:
    params, inputs = _params(decoder), _inputs()
    plain = _scan(decoder, params, *inputs).logits
    dropping = decoder.clone(**{dropout: 0.5})
    np.testing.assert_array_equal(_scan(dropping, params, *inputs).logits, plain)
    first, again, other = (
        _scan(dropping, params, *inputs, jax.random.key(seed), train=True).logits
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != plain)
    assert np.any(first != other)
    # No dropout asked for: training computes the same as evaluation.
    np.testing.assert_allclose(
        _scan(decoder, params, *inputs, jax.random.key(0), train=True).logits, plain, atol=1e-6
    )


def test_dropout_differs_from_word_to_word_and_caption_to_caption() -> None:
    """The LSTM is made deaf, so that only the mask on its output can make a difference."""
    decoder = DECODERS["lstm"].clone(output_dropout=0.5)
    params = jax.tree.map(np.zeros_like, _params(decoder))
    for k in "ifgo":
        params["cell"][f"h{k}"]["bias"] = np.ones(H, np.float32)
    params["output"]["kernel"] = np.eye(H, V, dtype=np.float32)
    logits = _scan(decoder, params, *_inputs(), jax.random.key(0), train=True).logits
    kept = np.asarray(logits[..., :H]) != 0
    assert len({mask.tobytes() for mask in kept.reshape(-1, H)}) > 20  # of 30 masks of 8 bits
    assert 0.35 < kept.mean() < 0.65


@pytest.mark.parametrize("scoring", ["additive", "dot"])
def test_attention_reaches_every_position_of_the_image(scoring: str) -> None:
    decoder, (features, tokens) = DECODERS[scoring], _inputs()
    gradient = jax.grad(lambda x: (_scan(decoder, _params(decoder), x, tokens).logits ** 2).sum())(
        features
    )
    assert np.all(np.abs(gradient).max(axis=-1) > 1e-4)


def test_positions_are_a_set_to_the_decoders() -> None:
    """Attention weights move with the positions; logits do not change."""
    order = np.array([2, 0, 3, 1])
    for decoder in DECODERS.values():
        features, tokens = _inputs()
        output = _scan(decoder, _params(decoder), features, tokens)
        moved = _scan(decoder, _params(decoder), features[:, order], tokens)
        np.testing.assert_allclose(moved.logits, output.logits, atol=1e-5)
        if output.weights.shape[-1]:
            np.testing.assert_allclose(moved.weights, output.weights[..., order], atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "attention"])
def test_a_configuration_reaches_the_module(name: str) -> None:
    config = DecoderConfig(
        name=name,  # type: ignore[arg-type]
        hidden_size=1,
        embedding_size=2,
        attention_size=3,
        scoring="dot",
        embedding_dropout=0.1,
        feature_dropout=0.2,
        output_dropout=0.3,
    )
    common = {
        "vocabulary_size": 50,
        "hidden_size": 1,
        "embedding_size": 2,
        "embedding_dropout": 0.1,
        "feature_dropout": 0.2,
        "output_dropout": 0.3,
    }
    expected: nn.Module = (
        LSTMDecoder(**common)  # type: ignore[arg-type]
        if name == "lstm"
        else AttentionDecoder(attention_size=3, scoring="dot", **common)  # type: ignore[arg-type]
    )
    assert create_decoder(config, 50) == expected
