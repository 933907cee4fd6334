"""A batch in parts equals the whole batch in loss and gradient; statistics move by the mean."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcap.config import Config, DecoderConfig, EncoderConfig
from jaxcap.data.batch import Batch
from jaxcap.model.captioner import Captioner, create_captioner, init_variables
from jaxcap.training.step.accumulation import sum_over_parts
from jaxcap.training.step.losses import cross_entropy
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import StepMetrics, train_step

VOCABULARY, SIDE, SGD = 11, 16, optax.sgd(0.1)
Tree = Any


def test_parts_take_every_few_rows_and_are_summed() -> None:
    """Σ x over all rows, and the rows of each part, in order."""
    x = np.arange(12.0, dtype=np.float32).reshape(6, 2)
    seen = []

    def f(part: Any, rng: Any) -> Any:
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), part, ordered=True)
        return part.sum(), jnp.ones(())

    total, parts = jax.jit(functools.partial(sum_over_parts, f, parts=3))(x, jax.random.key(0))
    jax.effects_barrier()
    assert (total, parts) == (66, 3)
    np.testing.assert_array_equal(seen, [x[[0, 3]], x[[1, 4]], x[[2, 5]]])


def test_each_part_has_its_own_key() -> None:
    keys = []

    def f(part: Any, rng: Any) -> Any:
        jax.debug.callback(lambda x: keys.append(float(x)), jax.random.uniform(rng), ordered=True)
        return part.sum()

    jax.jit(functools.partial(sum_over_parts, f, parts=4))(np.ones(4), jax.random.key(0))
    jax.effects_barrier()
    assert len(set(keys)) == 4


@functools.cache
def _model(batch_stats: str) -> Captioner:
    config = Config(
        encoder=EncoderConfig(name="resnet_small", batch_stats=batch_stats),  # type: ignore[arg-type]
        decoder=DecoderConfig(name="lstm", hidden_size=8, embedding_size=6, output_dropout=0.0),
    )
    model = create_captioner(config, VOCABULARY)
    return model.clone(encoder=model.encoder.clone(stage_sizes=(1, 1), width=4))


@functools.cache
def _variables() -> Tree:
    return jax.device_get(init_variables(_model("frozen"), jax.random.key(0), image_size=SIDE))


def _batch() -> Batch:
    """Eight images of 1 to 12 words, some captions empty."""
    rng = np.random.default_rng(0)
    lengths = np.array([[12, 3], [2, 0], [7, 7], [2, 2], [3, 11], [5, 0], [2, 3], [9, 4]])
    tokens = rng.integers(4, VOCABULARY, (8, 2, 12)).astype(np.int32)
    tokens[..., 0] = 1
    tokens = np.where(np.arange(12) < lengths[..., None], tokens, 0).astype(np.int32)
    pixels = rng.integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    return Batch(pixels=pixels, tokens=tokens)


@functools.cache
def _trained(accumulate: int, batch_stats: str, steps: int) -> tuple[TrainState, list[Any]]:
    step = functools.partial(
        train_step,
        model=_model(batch_stats),
        tx=SGD,
        objective=cross_entropy,
        accumulate=accumulate,
    )
    run = jax.jit(step)
    state, found = TrainState.create(jax.tree.map(jnp.array, _variables()), SGD), []
    for _ in range(steps):
        state, metrics = run(state, _batch(), jax.random.key(0))
        found.append(metrics)
    return state, found


def _assert_close(x: Tree, y: Tree, **tolerance: float) -> None:
    for a, b in zip(*map(jax.tree.leaves, (x, y)), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.slow
def test_four_parts_train_as_one() -> None:
    """Divided by the words of the whole batch: 21 words in one part, 6 in another."""
    one, curve = _trained(1, "frozen", 3)
    four, curve_of_four = _trained(4, "frozen", 3)
    _assert_close(curve_of_four, curve, rtol=1e-5)
    assert isinstance(curve[0], StepMetrics)
    assert curve[2].loss < curve[0].loss
    _assert_close(four.params, one.params, rtol=1e-5, atol=1e-6)
    for x, y in zip(
        *map(jax.tree.leaves, (four.batch_stats, _variables()["batch_stats"])), strict=True
    ):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2])
def test_trained_statistics_move_once_by_the_mean_over_the_parts(accumulate: int) -> None:
    batch, before = _batch(), jax.tree.map(jnp.asarray, _variables())

    @jax.jit
    def moved(images: Any, tokens: Any) -> Any:
        _, updates = _model("trained").apply(
            before, images, tokens[:, :, :-1], train=True, mutable=["batch_stats"]
        )
        return updates["batch_stats"]

    parts = [
        moved(batch.pixels[k::accumulate], batch.tokens[k::accumulate]) for k in range(accumulate)
    ]
    expected = jax.tree.map(lambda *x: np.mean(x, axis=0), *parts)
    state, _ = _trained(accumulate, "trained", 1)
    _assert_close(state.batch_stats, expected, atol=1e-5)
    # The first layer's mean is over all pixels, in however many parts they come.
    whole, _ = _trained(1, "trained", 1)
    stem, stem_of_whole = (s.batch_stats["encoder"]["stem"]["norm"]["mean"] for s in (state, whole))
    np.testing.assert_allclose(stem, stem_of_whole, atol=1e-6)
    assert np.any(stem != before["batch_stats"]["encoder"]["stem"]["norm"]["mean"])
