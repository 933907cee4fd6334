"""Decoders in training: dropout, gradients, bfloat16."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from family import DECODERS, H, Tree, V, every_decoder, inputs, random_params, scan

from jaxcap.model.decoders import Decoder


def _program(decoder: Decoder, params: Tree) -> str:
    """What evaluation computes, without the addresses of functions; nothing is compiled."""
    evaluate = functools.partial(decoder.apply, train=False)
    return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(evaluate)({"params": params}, *inputs())))


@pytest.mark.slow
@pytest.mark.parametrize("dropout", ["embedding_dropout", "feature_dropout", "output_dropout"])
@every_decoder
def test_each_dropout_acts_in_training_only(decoder: Decoder, dropout: str) -> None:
    params, given = random_params(decoder), inputs()
    plain = scan(decoder, params, *given).logits
    dropping = decoder.clone(**{dropout: 0.5})
    assert _program(dropping, params) == _program(decoder, params)
    first, again, other = (
        scan(dropping, params, *given, jax.random.key(seed), train=True).logits
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != plain)
    assert np.any(first != other)
    # No dropout asked for: training computes the same as evaluation.
    np.testing.assert_allclose(
        scan(decoder, params, *given, jax.random.key(0), train=True).logits, plain, atol=1e-6
    )


def test_dropout_differs_from_word_to_word_and_caption_to_caption() -> None:
    """The LSTM is made deaf, so that only the mask on its output can make a difference."""
    decoder = DECODERS["lstm"].clone(output_dropout=0.5)
    params = jax.tree.map(np.zeros_like, random_params(decoder))
    for k in "ifgo":
        params["cell"][f"h{k}"]["bias"] = np.ones(H, np.float32)
    params["output"]["kernel"] = np.eye(H, V, dtype=np.float32)
    logits = scan(decoder, params, *inputs(), jax.random.key(0), train=True).logits
    kept = np.asarray(logits[..., :H]) != 0
    assert len({mask.tobytes() for mask in kept.reshape(-1, H)}) > 20  # of 30 masks of 8 bits
    assert 0.35 < kept.mean() < 0.65


@functools.partial(jax.jit, static_argnames="decoder")
def _gradients(decoder: Decoder, params: Tree, features: Any, tokens: Any) -> Any:
    """Of the logits' squares, with respect to parameters and features; and the logits."""

    def loss(params: Tree, features: Any) -> Any:
        logits = decoder.apply({"params": params}, features, tokens, train=False).logits
        return (logits**2).sum(), logits

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, features)


@pytest.mark.slow
@every_decoder
def test_gradients_reach_every_parameter_and_position(decoder: Decoder) -> None:
    (of_params, of_features), _ = _gradients(decoder, random_params(decoder), *inputs())
    for path, gradient in jax.tree_util.tree_leaves_with_path(of_params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # What is added to all keys changes all dot products alike, which a softmax does not see.
        of_all_keys = getattr(decoder, "scoring", "") == "dot" and name == "key/bias"
        assert of_all_keys or np.abs(gradient).max() > 1e-4, name
    assert np.all(np.abs(of_features).max(axis=-1) > 1e-4)


@pytest.mark.slow
@every_decoder
def test_bfloat16_rounds_products_and_nothing_else(decoder: Decoder) -> None:
    rounding = decoder.clone(dtype=jnp.dtype("bfloat16"))
    exact, logits = _gradients(decoder, random_params(decoder), *inputs())
    rounded, near = _gradients(rounding, random_params(decoder), *inputs())
    made = jax.eval_shape(
        functools.partial(rounding.init, train=False), jax.random.key(0), *inputs()
    )["params"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(
        lambda x: (x.shape, x.dtype), random_params(decoder)
    )
    assert near.dtype == np.float32
    distance = np.linalg.norm(near - logits) / np.linalg.norm(logits)
    assert 1e-4 < distance < 2e-2
    off = optax.global_norm(jax.tree.map(jnp.subtract, rounded, exact))
    assert {x.dtype for x in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    assert off / optax.global_norm(exact) < 5e-2
