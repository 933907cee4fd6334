"""What each way of fine-tuning moves, leaf by leaf, and what it leaves alone, bit by bit.

Real steps of the library's own `train_step` with its own optimizer: weight decay and momentum
are at work in all of them.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

from jaxcap.config import Config, DecoderConfig, EncoderConfig, TrainConfig
from jaxcap.data.batch import Batch
from jaxcap.model.captioner import Captioner, create_captioner, init_variables
from jaxcap.model.encoders.cpu import parts
from jaxcap.training.step.losses import cross_entropy
from jaxcap.training.step.optimizer import create_optimizer
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import train_step

VOCABULARY, SIDE, STEPS = 11, 32, 4
# So small a norm that every gradient is clipped.
TRAIN = TrainConfig(
    learning_rate=0.01, warmup_epochs=0.0, epochs=100, weight_decay=0.1, clip_norm=1e-3
)
DECODER = DecoderConfig(name="lstm", hidden_size=8, embedding_size=6, output_dropout=0.0)
Tree = Any

# Architectures by name, made so small that a step compiles in seconds.
SMALLER: dict[str, dict[str, Any]] = {
    "resnet_small": {"stage_sizes": (1, 1), "width": 4},
    "vgg16": {"block_sizes": (1, 1, 0, 0, 1)},
}
STAGES = {
    "resnet_small": ("stem", "stage1", "stage2"),
    "vgg16": ("block1", "block2", "block5"),
}


def _batch() -> Batch:
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, VOCABULARY, (4, 2, 6)).astype(np.int32)
    tokens[..., 0], tokens[..., -1] = 1, 2
    pixels = rng.integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    return Batch(pixels=pixels, tokens=tokens)


def _model(encoder: EncoderConfig) -> Captioner:
    model = create_captioner(Config(encoder=encoder, decoder=DECODER), VOCABULARY)
    return model.clone(encoder=model.encoder.clone(**SMALLER[encoder.name]))


@functools.cache
def _variables(name: str) -> Tree:
    """With a −0 and a subnormal number in every leaf: adding nothing would change their bits."""

    def planted(x: Any) -> np.ndarray:
        x = np.array(x)
        x.flat[:2] = -0.0, 1e-40
        return x

    variables = init_variables(_model(EncoderConfig(name)), jax.random.key(0), image_size=SIDE)
    return jax.tree.map(planted, jax.device_get(variables))


def _paths(tree: Tree) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }


def _moved(before: Tree, after: Tree) -> set[str]:
    """Return the paths of the leaves in which any bit differs."""
    old, new = _paths(before), _paths(after)
    assert old.keys() == new.keys()
    assert all(old[path].dtype == new[path].dtype for path in old)
    return {path for path in old if old[path].tobytes() != new[path].tobytes()}


def _of_stages(tree: Tree, stages: tuple[str, ...]) -> set[str]:
    """Return the paths of an encoder's leaves in one of the stages."""
    return {path for path in _paths(tree) if path.split("/")[0].split("_")[0] in stages}


class Trained(NamedTuple):
    before: Tree
    first: TrainState
    last: TrainState
    losses: list[Any]
    flops: float


@pytest.fixture(autouse=True)
def _whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a frozen encoder too: XLA counts a loop's work once, however many turns it has."""
    monkeypatch.setattr(parts, "_PART", 4)


@functools.cache
def _trained(encoder: EncoderConfig) -> Trained:
    """Return the states after the first and the last of a few steps, and the cost of one."""
    tx, model = create_optimizer(TRAIN, encoder, steps_per_epoch=10), _model(encoder)

    # Plain dictionaries: JAX keeps notes on the arguments in trees of their kind, and a
    # TrainState of notes does not pass the type checks of the tests.
    def step(state: dict[str, Any], batch: Batch, rng: Any) -> tuple[dict[str, Any], Any]:
        after, metrics = train_step(
            TrainState(**state), batch, rng, model=model, tx=tx, objective=cross_entropy
        )
        return vars(after), metrics

    before = _variables(encoder.name)
    state = jax.jit(lambda variables: vars(TrainState.create(variables, tx)))(before)
    compiled = jax.jit(step).lower(state, _batch(), jax.random.key(1)).compile()
    states, losses = [state], []
    for _ in range(STEPS):
        state, metrics = compiled(states[-1], _batch(), jax.random.key(1))
        states.append(state)
        losses.append(metrics.loss)
    first, last = TrainState(**states[1]), TrainState(**states[-1])
    return Trained(before, first, last, losses, compiled.cost_analysis()["flops"])


@dataclass(frozen=True)
class Mode:
    """A way of fine-tuning: how many stages, from the last, learn and whether they normalise
    by the batch."""

    encoder: EncoderConfig
    stages: int
    statistics: bool

    def __str__(self) -> str:
        e = self.encoder
        options = ("frozen" if not e.trainable else e.train_from or "whole", e.batch_stats)
        return "-".join((e.name, *options, f"{e.learning_rate_factor:g}", e.dtype))


RESNET, VGG = EncoderConfig("resnet_small"), EncoderConfig("vgg16")
MODES = [
    Mode(RESNET, 3, True),
    Mode(replace(RESNET, trainable=False), 0, False),
    Mode(replace(RESNET, train_from="stage2"), 1, True),
    Mode(replace(RESNET, train_from="stage1", batch_stats="frozen"), 2, False),
    Mode(replace(RESNET, batch_stats="frozen"), 3, False),
    Mode(replace(RESNET, learning_rate_factor=0.1), 3, True),
    Mode(replace(RESNET, train_from="stage1"), 2, True),
    Mode(replace(RESNET, train_from="stage1", dtype="bfloat16"), 2, True),
    Mode(VGG, 3, True),
    Mode(replace(VGG, trainable=False), 0, False),
    Mode(replace(VGG, train_from="block5"), 1, True),
]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_trained_parameters_move_and_frozen_ones_keep_every_bit(mode: Mode) -> None:
    before, _, after, *_ = _trained(mode.encoder)
    stages = STAGES[mode.encoder.name]
    learning = stages[len(stages) - mode.stages :]

    encoder = before["params"]["encoder"]
    assert {path.split("/")[0].split("_")[0] for path in _paths(encoder)} == set(stages)
    moved = _moved(encoder, after.params["encoder"])
    assert moved == _of_stages(encoder, learning)

    statistics = before["batch_stats"].get("encoder", {})
    moved = _moved(statistics, after.batch_stats.get("encoder", {}))
    assert moved == (_of_stages(statistics, learning) if mode.statistics else set())

    decoder = before["params"]["decoder"]
    assert _moved(decoder, after.params["decoder"]) == set(_paths(decoder))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_frozen_parameters_have_no_optimizer_state(mode: Mode) -> None:
    before, _, after, *_ = _trained(mode.encoder)
    stages = STAGES[mode.encoder.name]
    encoder = _of_stages(before["params"]["encoder"], stages[len(stages) - mode.stages :])
    learning = {f"encoder/{path}" for path in encoder} | {
        f"decoder/{path}" for path in _paths(before["params"]["decoder"])
    }
    for moment in ("mu", "nu"):
        marked = {
            path.split(f"/{moment}/")[1]: leaf
            for path, leaf in _paths(after.opt_state).items()
            if f"/{moment}/" in path
        }
        assert marked.keys() == learning
        assert all(np.any(leaf) for leaf in marked.values())
    # Beside the two moments there are counters only.
    others = [x for path, x in _paths(after.opt_state).items() if "/mu/" not in path]
    assert sum(x.size > 1 for x in others) == len(learning)


@pytest.mark.slow
def test_a_factor_of_zero_is_not_frozen() -> None:
    """Parameters stay, but their moments and the batch statistics follow the data."""
    before, _, after, *_ = _trained(replace(RESNET, learning_rate_factor=0.0))
    assert _moved(before["params"]["encoder"], after.params["encoder"]) == set()
    assert _moved(before["batch_stats"], after.batch_stats) == set(_paths(before["batch_stats"]))
    moments = [x for p, x in _paths(after.opt_state).items() if "/mu/encoder/stem/" in p]
    assert len(moments) == 3
    assert all(np.any(x) for x in moments)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_only_trained_parameters_count_in_the_clipped_norm(mode: Mode) -> None:
    """Adam's first moment after one step is a tenth of the clipped gradient."""
    first = _trained(mode.encoder).first
    moments = [x for path, x in _paths(first.opt_state).items() if "/mu/" in path]
    np.testing.assert_allclose(optax.global_norm(moments), 0.1 * TRAIN.clip_norm, rtol=1e-4)


@pytest.mark.slow
def test_frozen_stages_cost_no_gradient() -> None:
    """XLA's own count of the compiled step, beside the convolutions' multiply-adds by hand.

    Forward, block 1 to 3 of the small VGG have 32² · 9 · 3 · 64, 16² · 9 · 64 · 128 and
    2² · 9 · 128 · 512 per image. A learning kernel's gradient costs as much again, and so does
    the gradient passed on to a learning block before.
    """
    first, second, third = 4 * 2 * np.array([32**2 * 27 * 64, 16**2 * 576 * 128, 4 * 1152 * 512])
    direct = replace(VGG, dtype="bfloat16")  # in float32 some take fewer multiplications
    whole, last, frozen = (
        _trained(e).flops
        for e in (direct, replace(direct, train_from="block5"), replace(direct, trainable=False))
    )
    # Less at the edges of small images, more for the optimizer and other layers.
    np.testing.assert_allclose(whole - frozen, first + 2 * second + 2 * third, rtol=0.15)
    np.testing.assert_allclose(last - frozen, third, rtol=0.4)


@pytest.mark.slow
def test_bfloat16_computes_in_it_and_stores_float32() -> None:
    encoder = replace(VGG, dtype="bfloat16")
    images, variables = _batch().pixels, _variables("vgg16")

    def encode(encoder: EncoderConfig) -> Any:
        return jax.jit(functools.partial(_model(encoder).apply, method="encode"))

    program = encode(encoder).lower(variables, images).as_text()
    convolutions = re.findall(r"stablehlo\.convolution.*", program)
    assert len(convolutions) == 3
    assert all(line.count("xbf16>") == 3 for line in convolutions)  # both inputs and the result

    half, single = encode(encoder)(variables, images), encode(VGG)(variables, images)
    assert half.dtype == single.dtype == np.float32
    # Eight bits of a number are kept, so one is off by up to 2⁻⁹ and three layers by little more.
    difference = np.linalg.norm(half - single) / np.linalg.norm(single)
    assert 1e-4 < difference < 0.02


def test_training_in_bfloat16_keeps_its_state_in_float32_and_follows_float32() -> None:
    encoder = replace(RESNET, train_from="stage1")
    half, single = _trained(replace(encoder, dtype="bfloat16")), _trained(encoder)
    kept = (half.last.params, half.last.batch_stats, half.last.opt_state)
    for path, leaf in _paths(kept).items():
        assert leaf.dtype == (np.int32 if path.endswith("count") else np.float32), path
    assert half.losses[0].dtype == np.float32
    assert half.losses[0] != single.losses[0]
    np.testing.assert_allclose(half.losses, single.losses, rtol=0.02)
    assert half.losses[-1] < half.losses[0]
