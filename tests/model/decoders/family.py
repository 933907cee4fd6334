"""A small instance of every decoder, random parameters, and the two ways to run it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.model.decoders import (
    AdaptiveDecoder,
    AoADecoder,
    AttentionDecoder,
    Decoder,
    LSTMDecoder,
    SCADecoder,
    StepOutput,
    TopDownDecoder,
)
from jaxcap.search.interface import repeat_captions

B, N, T, P, D, H, E, A, V = 2, 3, 5, 4, 6, 8, 7, 9, 11

COMMON: Any = {"vocabulary_size": V, "hidden_size": H, "embedding_size": E}
WIDE: Any = COMMON | {"attention_size": A}
DECODERS = {
    "lstm": LSTMDecoder(**COMMON),
    "additive": AttentionDecoder(scoring="additive", **WIDE),
    "dot": AttentionDecoder(scoring="dot", **WIDE),
    "topdown": TopDownDecoder(**WIDE),
    "adaptive": AdaptiveDecoder(**WIDE),
    "aoa": AoADecoder(heads=3, **WIDE),
    "sca": SCADecoder(scoring="dot", **WIDE),
}
OTHERS = {
    "topdown, dot": TopDownDecoder(scoring="dot", **WIDE),
    "adaptive, dot": AdaptiveDecoder(scoring="dot", **WIDE),
    "aoa, not refined": AoADecoder(heads=1, refiner_layers=0, **WIDE),
    "sca, additive": SCADecoder(**WIDE),
}
every_decoder = pytest.mark.parametrize("decoder", DECODERS.values(), ids=list(DECODERS))
Tree = Any


def inputs(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    features = jnp.asarray(rng.normal(size=(B, P, D)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, V, (B, N, T)), jnp.int32)
    return features, tokens


@functools.cache
def random_params(decoder: Decoder) -> Tree:
    """Return random parameters, biases included: zero biases would hide errors."""
    features, tokens = inputs()
    params = jax.jit(functools.partial(decoder.init, train=False))(
        jax.random.key(0), features, tokens
    )["params"]
    leaves, tree = jax.tree.flatten(jax.device_get(params))
    rng = np.random.default_rng(1)
    noise = [0.3 * rng.normal(size=x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(tree, [x + y for x, y in zip(leaves, noise, strict=True)])


@functools.partial(jax.jit, static_argnames=("decoder", "train"))
def scan(
    decoder: Decoder, params: Tree, features: Any, tokens: Any, rng: Any = None, train: bool = False
) -> StepOutput:
    rngs = None if rng is None else {"dropout": rng}
    return decoder.apply({"params": params}, features, tokens, train=train, rngs=rngs)


def stepwise(decoder: Decoder, params: Tree, features: Any, tokens: Any) -> StepOutput:
    """As search does it: `start`, then one jitted `step` after another."""
    variables = {"params": params}
    start = jax.jit(functools.partial(decoder.apply, train=False, method="start"))
    carry, context = start(variables, features)
    carry = repeat_captions(carry, tokens.shape[1])
    step = jax.jit(functools.partial(decoder.apply, method="step"))
    outputs = []
    for t in range(tokens.shape[2]):
        carry, output = step(variables, carry, tokens[:, :, t], context)
        outputs.append(output)
    return jax.tree.map(lambda *x: jnp.stack(x, axis=2), *outputs)
