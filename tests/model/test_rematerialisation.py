"""What is computed again and not kept: the same numbers, in less memory by XLA's own account."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.config import Config, DecoderConfig, EncoderConfig, TrainConfig
from jaxcap.model.captioner import Captioner, create_captioner, init_variables

pytestmark = pytest.mark.slow

VOCABULARY = 50
# Name of the encoder, its batch statistics, pixels a side, words: large where it is looked at.
CASES: dict[str, tuple[str, str, int, int]] = {
    "encoder": ("resnet_small", "trained", 64, 3),
    "encoder by its stored statistics": ("resnet_small", "frozen", 64, 3),
    "decoder": ("resnet_small", "trained", 32, 40),
}


def _model(encoder: str, remat: Any, batch_stats: Any = "trained") -> Captioner:
    config = Config(
        encoder=EncoderConfig(name=encoder, batch_stats=batch_stats),
        decoder=DecoderConfig(
            hidden_size=16, embedding_size=16, attention_size=32, output_dropout=0.3
        ),
        train=TrainConfig(remat=remat),
    )
    return create_captioner(config, VOCABULARY)


def _deep(model: Captioner) -> Captioner:
    """One stage of some blocks, each as large as the others: what they keep adds up."""
    return model.clone(encoder=model.encoder.clone(stage_sizes=(5,), width=8))


def _gradient(
    remat: Any, encoder: str, batch_stats: str, side: int, words: int
) -> tuple[Any, Any, tuple[int, int]]:
    """Gradient and batch statistics of a loss; the bytes XLA needs meanwhile, the convolutions."""
    model = _deep(_model(encoder, remat, batch_stats))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, side, side, 3), np.uint8)
    tokens = rng.integers(4, VOCABULARY, (4, 2, words)).astype(np.int32)
    variables = jax.device_get(
        init_variables(_deep(_model(encoder, "none")), jax.random.key(0), image_size=side)
    )

    def loss(params: Any, images: Any, tokens: Any) -> Any:
        output, updates = model.apply(
            {**variables, "params": params},
            images,
            tokens,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        return jnp.sin(output.logits).mean(), updates.get("batch_stats", {})

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    lowered = gradient.lower(variables["params"], images, tokens)
    convolutions = lowered.as_text().count("stablehlo.convolution")
    compiled = lowered.compile()
    grads, statistics = compiled(variables["params"], images, tokens)
    return grads, statistics, (compiled.memory_analysis().temp_size_in_bytes, convolutions)


@functools.cache
def _plain(case: str) -> Any:
    return _gradient("none", *CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_the_same_gradient_and_less_is_kept(case: str) -> None:
    grads, statistics, (needed, convolutions) = _plain(case)
    again, statistics_again, (needed_again, more) = _gradient(case.split()[0], *CASES[case])
    for x, y in zip(
        *map(jax.tree.leaves, ((again, statistics_again), (grads, statistics))), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    if case == "decoder":
        assert needed_again < 0.8 * needed, (needed_again, needed)
    else:
        # Outside loops, XLA on a CPU merges the recomputation with the forward pass and saves
        # nothing, so the test looks at the program before compilation.
        assert more >= convolutions + 10


def test_an_encoder_that_does_not_learn_gives_the_same_features() -> None:
    """It takes a batch in parts, by a scan, with and without batch statistics to be written."""
    images = np.random.default_rng(0).integers(0, 256, (37, 32, 32, 3), np.uint8)

    def features(remat: bool, *, train: bool, mutable: Any) -> Any:
        model = _model("resnet_small", "encoder" if remat else "none")
        model = model.clone(train_encoder=False)
        variables = init_variables(model, jax.random.key(0), image_size=32)
        return jax.jit(
            lambda images: model.apply(
                variables, images, train=train, method="encode", mutable=mutable
            )
        )(images)

    for options in (
        {"train": False, "mutable": False},
        {"train": True, "mutable": ["batch_stats"]},
    ):
        expected, found = (features(remat, **options) for remat in (False, True))
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_vgg_has_the_same_gradient_with_it() -> None:
    """Its stages are no modules."""

    def gradient(remat: bool) -> Any:
        model = _model("vgg16", "encoder" if remat else "none")
        encoder = model.encoder.clone(block_sizes=(1, 2, 0, 0, 1))
        images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 16, 16, 3)), jnp.float32)
        init = jax.jit(functools.partial(encoder.init, train=False))
        params = init(jax.random.key(0), images)["params"]

        @jax.jit
        @jax.grad
        def of(params: Any) -> Any:
            return jnp.sin(encoder.apply({"params": params}, images, train=True)).sum()

        return of(params)

    found, expected = gradient(True), gradient(False)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, expected)
    assert "block2_conv2" in found
