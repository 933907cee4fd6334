"""The optimizer. Adam's first step, worked by hand, distinguishes every rule."""

import typing
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcap.config import EncoderConfig, RecognitionConfig, TrainConfig
from jaxcap.messages.errors import InputError
from jaxcap.training.step.optimizer import (
    apply_nonzero_updates,
    create_optimizer,
    learning_rate,
    moving_average,
)

# Constant learning rate at the first step: no warm-up, and a horizon far away.
STEADY = TrainConfig(
    learning_rate=0.01, warmup_epochs=0.0, epochs=1000, weight_decay=0.0, clip_norm=1e9
)


def _params() -> Any:
    """An encoder and a decoder, each with a matrix, a kernel of four axes and a bias."""

    def part(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        shapes = {"matrix": (3, 4), "kernel": (1, 2, 3, 4), "bias": (4,)}
        return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}

    return {"encoder": part(0), "decoder": part(1)}


def _gradients(seed: int) -> Any:
    """Between 1 and 2 in size, with either sign."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.choice([-1, 1], x.shape) * rng.uniform(1, 2, x.shape), x.dtype),
        _params(),
    )


def _first_update(train: TrainConfig, encoder: EncoderConfig, gradients: Any = None) -> Any:
    tx = create_optimizer(train, encoder, steps_per_epoch=1000)
    params = _params()
    return tx.update(_gradients(2) if gradients is None else gradients, tx.init(params), params)[0]


def test_schedule_by_hand() -> None:
    """Two epochs of warm-up and eight of decay, of five steps each."""
    config = TrainConfig(learning_rate=0.4, warmup_epochs=2.0, epochs=10)
    schedule = learning_rate(config, steps_per_epoch=5)
    np.testing.assert_allclose(schedule(0), 0.04, rtol=1e-6)  # a tenth, and not nothing
    np.testing.assert_allclose(schedule(5), 0.04 + 0.36 / 2, rtol=1e-6)
    np.testing.assert_allclose(schedule(10), 0.4, rtol=1e-6)
    np.testing.assert_allclose(schedule(30), 0.2, rtol=1e-6)  # half-way down the cosine
    last = 0.2 * (1 + np.cos(np.pi * 39 / 40))
    np.testing.assert_allclose(schedule(49), last, rtol=1e-4)
    assert schedule(50) == 0
    values = np.array([schedule(step) for step in range(51)])
    assert np.all(np.diff(values[:11]) > 0)
    assert np.all(np.diff(values[10:]) < 0)


@pytest.mark.parametrize(
    ("warmup_epochs", "epochs", "steps_per_epoch"),
    [(0.0, 3, 4), (0.1, 1, 1), (1.0, 1, 1), (1.0, 1, 5), (9.0, 2, 5), (0.3, 2, 5)],
)
def test_schedules_of_short_runs_learn_something(
    warmup_epochs: float, epochs: int, steps_per_epoch: int
) -> None:
    config = TrainConfig(learning_rate=0.4, warmup_epochs=warmup_epochs, epochs=epochs)
    schedule = learning_rate(config, steps_per_epoch=steps_per_epoch)
    values = np.array([schedule(step) for step in range(epochs * steps_per_epoch)])
    assert np.all(np.isfinite(values))
    assert np.all(values > 0)
    np.testing.assert_allclose(values.max(), 0.4, rtol=1e-6)


def test_the_first_step_of_adam_is_the_learning_rate() -> None:
    """m̂ / √v̂ is the gradient's sign, so the size is the rate alone."""
    updates = _first_update(STEADY, EncoderConfig())
    expected = jax.tree.map(lambda g: -0.01 * np.sign(g), _gradients(2))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), updates, expected)


@pytest.mark.parametrize("factor", [0.1, 2.0])
def test_the_encoder_learns_at_its_own_rate(factor: float) -> None:
    updates = _first_update(STEADY, EncoderConfig(learning_rate_factor=factor))
    for part, rate in (("encoder", 0.01 * factor), ("decoder", 0.01)):
        for update in jax.tree.leaves(updates[part]):
            np.testing.assert_allclose(np.abs(update), rate, rtol=1e-4)


def test_the_factor_scales_decay_and_step_alike_and_nothing_else() -> None:
    """A tenth of the encoder's update; an eighth, which is exact in binary, to the last bit."""
    train = replace(STEADY, weight_decay=0.5, clip_norm=1.0)
    whole = _first_update(train, EncoderConfig())
    for factor, rtol in ((0.1, 3e-7), (0.125, 0.0)):
        scaled = _first_update(train, EncoderConfig(learning_rate_factor=factor))
        for name, update in whole["encoder"].items():
            assert np.all(update != 0)
            expected = np.float32(factor) * update
            np.testing.assert_allclose(scaled["encoder"][name], expected, rtol=rtol, atol=0)
        jax.tree.map(np.testing.assert_array_equal, scaled["decoder"], whole["decoder"])


def test_weight_decay_shrinks_matrices_and_kernels_only() -> None:
    """AdamW: without a gradient what remains is −rate · decay · w, at the part's own rate."""
    train = TrainConfig(
        learning_rate=0.01, warmup_epochs=0.0, epochs=1000, weight_decay=0.5, clip_norm=1e9
    )
    nothing = jax.tree.map(jnp.zeros_like, _params())
    updates = _first_update(train, EncoderConfig(learning_rate_factor=0.1), nothing)
    for part, rate in (("encoder", 0.001), ("decoder", 0.01)):
        for name, update in updates[part].items():
            decay = 0.0 if name == "bias" else 0.5
            expected = -rate * decay * _params()[part][name]
            np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-9)


def test_gradients_are_clipped_by_the_norm_of_all() -> None:
    """Adam's first moment is 0.1 × the clipped gradient."""
    train = TrainConfig(clip_norm=2.0)
    tx = create_optimizer(train, EncoderConfig(), steps_per_epoch=10)
    gradients, params = _gradients(3), _params()
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(gradients)))
    assert norm > 2
    _, state = tx.update(gradients, tx.init(params), params)
    (encoder,) = optax.tree_utils.tree_get_all_with_path(
        state[1].inner_states["encoder"].inner_state, "mu"
    )
    expected = jax.tree.map(lambda g: 0.1 * 2.0 / norm * g, gradients["encoder"])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), encoder[1]["encoder"], expected
    )


def test_a_frozen_encoder_stays_bit_identical_and_costs_nothing() -> None:
    train = TrainConfig(learning_rate=0.1, weight_decay=0.5)
    tx = create_optimizer(train, EncoderConfig(trainable=False), steps_per_epoch=10)
    params = _params()
    state = tx.init(params)
    # Two moments for each decoder weight; beside them only scalars (counters).
    arrays = [x for x in jax.tree.leaves(state) if np.size(x) > 1]
    assert sum(x.size for x in arrays) == 2 * sum(
        x.size for x in jax.tree.leaves(params["decoder"])
    )
    step = jax.jit(tx.update)
    for seed in range(5):
        updates, state = step(_gradients(seed), state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], _params()["encoder"])
    for x, y in zip(*map(jax.tree.leaves, (params["decoder"], _params()["decoder"])), strict=True):
        assert np.all(x != y)


def test_stages_before_train_from_have_no_state_and_no_updates() -> None:
    part = _params()["encoder"]
    stages = ("stem", "stage1_block0", "stage1_block1", "stage2_block0", "stage3_block1")
    params = {"encoder": dict.fromkeys(stages, part), "decoder": {"stem": part}}
    gradients = jax.tree.map(jnp.ones_like, params)
    tx = create_optimizer(
        TrainConfig(), EncoderConfig("resnet_small", train_from="stage2"), steps_per_epoch=10
    )
    state = tx.init(params)
    moments = [x for x in jax.tree.leaves(state) if np.size(x) > 1]
    assert len(moments) == 2 * 3 * len(part)  # stage2, stage3 and the decoder's "stem"
    updates, _ = tx.update(gradients, state, params)
    for stage in stages[:3]:
        assert not any(np.any(x) for x in jax.tree.leaves(updates["encoder"][stage]))
    for tree in (*(updates["encoder"][stage] for stage in stages[3:]), updates["decoder"]):
        assert all(np.all(x != 0) for x in jax.tree.leaves(tree))


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(
        InputError,
        match=r"encoder\.train_from is 'stage5', but encoder 'resnet50' has no such stage\."
        r" Did you mean 'stage\d'\? Its stages: stem, stage1, stage2, stage3, stage4\.",
    ):
        create_optimizer(TrainConfig(), EncoderConfig(train_from="stage5"), steps_per_epoch=10)


def test_modes_without_named_stages_keep_the_state_of_earlier_runs() -> None:
    """Runs of an earlier version resume: Orbax compares the structure of the state."""
    for trainable in (True, False):
        tx = create_optimizer(TrainConfig(), EncoderConfig(trainable=trainable), steps_per_epoch=1)
        clip, parts = tx.init(_params())
        assert clip == optax.EmptyState()
        assert list(parts.inner_states) == ["encoder", "decoder"]


def test_zero_updates_keep_every_bit_and_others_are_added() -> None:
    """1e-40 and 1e-45 are subnormal: a sum on a CPU gives 0, and −0 + 0 is 0 anywhere."""
    params = np.array([-0.0, 0.0, 1e-40, -1e-45, 1.5, 1.5], np.float32)
    updates = np.array([0.0, -0.0, 0.0, 0.0, 0.0, -0.25], np.float32)
    expected = np.array([-0.0, 0.0, 1e-40, -1e-45, 1.5, 1.25], np.float32)
    for apply in (apply_nonzero_updates, jax.jit(apply_nonzero_updates)):
        assert np.asarray(apply(params, updates)).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {10: 0.4, 17: 0.4, 49: 0.4}),
        ("linear", {10: 0.4, 20: 0.3, 30: 0.2, 49: 0.01}),
        ("step", {10: 0.4, 19: 0.4, 20: 0.04, 29: 0.04, 30: 0.004}),
        ("exponential", {10: 0.4, 15: 0.4 / np.sqrt(10), 20: 0.04, 30: 0.004}),
    ],
)
def test_the_other_schedules_by_hand(schedule: Any, expected: dict[int, float]) -> None:
    """Two epochs of warm-up and eight more, of five steps each; a tenth after every two."""
    config = TrainConfig(
        learning_rate=0.4,
        warmup_epochs=2.0,
        epochs=10,
        schedule=schedule,
        decay_rate=0.1,
        decay_epochs=2.0,
    )
    rate = learning_rate(config, steps_per_epoch=5)
    np.testing.assert_allclose(rate(0), 0.04, rtol=1e-6)
    np.testing.assert_allclose(rate(5), 0.04 + 0.36 / 2, rtol=1e-6)
    found = [rate(step) for step in expected]
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-5)


def test_a_decay_that_takes_longer_than_steps_can_count_is_none() -> None:
    config = TrainConfig(learning_rate=0.4, warmup_epochs=0, schedule="step", decay_epochs=1e5)
    assert jax.jit(learning_rate(config, steps_per_epoch=10**6))(9) == pytest.approx(0.4)


OPTIMIZERS = typing.get_args(typing.get_type_hints(TrainConfig)["optimizer"])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_down_decays_and_leaves_the_frozen_alone(optimizer: Any) -> None:
    train = replace(STEADY, optimizer=optimizer, weight_decay=0.5)
    encoder = EncoderConfig("resnet_small", train_from="stage2", learning_rate_factor=0.125)
    part = _params()["decoder"]
    params = {"encoder": {"stem": part, "stage2_block0": part}, "decoder": part}
    tx = create_optimizer(train, encoder, steps_per_epoch=1000)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(tx.update)(gradients, tx.init(params), params)
    plain = create_optimizer(replace(train, weight_decay=0.0), encoder, steps_per_epoch=1000)
    undecayed, _ = jax.jit(plain.update)(gradients, plain.init(params), params)
    assert not any(np.any(x) for x in jax.tree.leaves(updates["encoder"]["stem"]))
    for name, update in undecayed["decoder"].items():
        assert np.all(update < 0)
        slower = undecayed["encoder"]["stage2_block0"][name]
        np.testing.assert_allclose(slower, update / 8, rtol=1e-6)
        decay = 0.0 if name == "bias" or optimizer == "adam" else -0.01 * 0.5 * part[name]
        np.testing.assert_allclose(updates["decoder"][name] - update, decay, atol=1e-7)


def test_the_heavy_ball_and_the_sign_by_hand() -> None:
    """sgd: after g, then g again, −rate · (g + µ g). lion: the sign alone."""
    params, gradients = _params(), _gradients(4)
    for optimizer, second in (
        ("sgd", lambda g: -0.01 * 1.5 * g),
        ("lion", lambda g: -0.01 * np.sign(g)),
    ):
        train = replace(STEADY, optimizer=optimizer, momentum=0.5)  # type: ignore[arg-type]
        tx = create_optimizer(train, EncoderConfig(), steps_per_epoch=1000)
        _, state = tx.update(gradients, tx.init(params), params)
        updates, _ = tx.update(gradients, state, params)
        expected = jax.tree.map(second, gradients)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), updates, expected)


def test_the_moving_average_by_hand() -> None:
    """d = 1/10 at step 0, 2/11 at step 1, and the decay where that is less than (1+t)/(10+t)."""
    average = {"x": jnp.array([1.0, -0.0, 1e-40])}
    params = {"x": jnp.array([2.0, -0.0, 1e-40])}
    for step, decay, expected in ((0, 0.9, 1.9), (1, 0.9, 2 - 2 / 11), (1000, 0.9, 1.1)):
        found = moving_average(average, params, decay=decay, step=jnp.int32(step))["x"]
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)
        assert np.asarray(found[1:]).tobytes() == np.asarray(average["x"][1:]).tobytes()


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("objective", ["word_detection", "cross_entropy", "self_critical"])
def test_the_detector_learns_alone_and_only_by_word_detection(
    objective: Any, trainable: bool
) -> None:
    recognition = RecognitionConfig(words=20, branch="head", trainable=trainable)
    train = replace(STEADY, objective=objective)
    encoder = EncoderConfig(name="efficientnet_lite0", train_from="head")
    names = ("encoder", "classifier", "detector", "scale")
    matrix = jnp.ones((2, 3))
    params = {
        "encoder": {"block0": matrix, "head": matrix},
        "decoder": {"words": matrix},
        "recogniser": {**dict.fromkeys(names, matrix), "encoder": {"head": matrix}},
    }
    tx = create_optimizer(train, encoder, steps_per_epoch=1000, recognition=recognition)
    updates, _ = tx.update(params, tx.init(params), params)
    moved = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, update in jax.tree_util.tree_leaves_with_path(updates)
        if np.any(update)
    }
    assert moved == (
        {"recogniser/detector", "recogniser/scale"}
        | ({"recogniser/encoder/head"} if trainable else set())
        if objective == "word_detection"
        else {"encoder/head", "decoder/words"}
    )
