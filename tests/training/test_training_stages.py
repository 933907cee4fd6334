"""A training in stages: what each moves, how it goes on at a border, what a stage may not change.

The parameters are averaged too, so that the resumed state is all that a state can be.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from configurations import changed
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.config import (
    Config,
    Stage,
    differences,
    from_dict,
    load_config,
    stage_configs,
    to_dict,
    validate,
)
from jaxcap.evaluation import read_metrics
from jaxcap.messages.errors import InputError
from jaxcap.model import cost
from jaxcap.model.captioner import init_variables
from jaxcap.training import experiment, train
from jaxcap.training.step.state import TrainState

pytestmark = pytest.mark.usefixtures("long_trainings")

STAGES = (
    Stage(1, train={"schedule": "constant", "warmup_epochs": 0.0}, encoder={"trainable": False}),
    Stage(
        2,
        train={"learning_rate": 1e-3, "schedule": "constant", "warmup_epochs": 0.0},
        encoder={"train_from": "stage3", "learning_rate_factor": 0.5},
        data={"crop_min_scale": 0.8},
    ),
)


def _config(tiny_config: Config) -> Config:
    config = changed(tiny_config, train__ema_decay=0.5, train__accumulate=2)
    return dataclasses.replace(config, stages=STAGES)


def _train(config: Config, workdir: Path) -> None:
    train(config, workdir, console=Console(quiet=True))


@pytest.fixture(scope="module")
def staged(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "staged"
    _train(_config(tiny_config), workdir)
    return workdir


def _equal(x: Any, y: Any) -> bool:
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(*map(jax.tree.leaves, (x, y)), strict=True)
    )


@pytest.mark.slow
def test_each_stage_trains_its_parameters_at_its_own_rate(staged, tiny_config):
    run = load(staged, best=False)
    assert run.step == 18
    first = init_variables(run.model, jax.random.key(tiny_config.train.seed), image_size=32)
    before, after = first["params"], run.variables["params"]
    for module, leaves in before["encoder"].items():
        learns = module.startswith(("stage3", "stage4"))
        assert _equal(leaves, after["encoder"][module]) is not learns, module
    assert not _equal(before["decoder"], after["decoder"])
    rates = {
        x["step"]: x["learning_rate"] for x in read_metrics(staged / "metrics.jsonl") if "loss" in x
    }
    assert {step: rate for step, rate in rates.items() if step in (1, 6, 8, 12, 18)} == {
        1: pytest.approx(2e-2),
        6: pytest.approx(2e-2),
        8: pytest.approx(1e-3),
        12: pytest.approx(1e-3),
        18: pytest.approx(1e-3),
    }
    scores = [x["step"] for x in read_metrics(staged / "metrics.jsonl") if "dev/CIDEr-D" in x]
    assert scores == [6, 12, 18]


@pytest.mark.slow
def test_a_training_killed_after_a_border_ends_as_if_it_had_not_been(
    staged, tiny_config, tmp_path, monkeypatch
):
    """From step 6, the last of the first stage, and from step 12, within a stage."""

    class KilledError(Exception):
        pass

    whole = experiment.training_batches

    def killed(last: int, *args: Any, first_step: int, **kwargs: Any) -> Any:
        for step, batch in enumerate(
            whole(*args, first_step=first_step, **kwargs), start=first_step + 1
        ):
            if step == last:
                raise KilledError
            yield batch

    for last in (8, 14):
        monkeypatch.setattr(experiment, "training_batches", functools.partial(killed, last))
        with pytest.raises(KilledError):
            _train(_config(tiny_config), tmp_path / "run")
    monkeypatch.setattr(experiment, "training_batches", whole)
    _train(_config(tiny_config), tmp_path / "run")
    found, expected = load(tmp_path / "run", best=False), load(staged, best=False)
    assert found.step == expected.step == 18
    assert _equal(found.variables, expected.variables)


@pytest.mark.slow
def test_parameters_frozen_after_averaging_equal_their_average(tiny_config, tmp_path):
    """In the decoder's training, in evaluation and in checkpoints."""
    config = changed(tiny_config, train__ema_decay=0.9, data__flip=False, data__crop_min_scale=1.0)

    def encoder_after(*stages: Stage) -> dict[str, Any]:
        workdir = tmp_path / str(len(list(tmp_path.iterdir())))
        _train(dataclasses.replace(config, stages=stages), workdir)
        return load(workdir, best=False).variables["params"]["encoder"]

    first = Stage(1, encoder={"trainable": True})
    before = encoder_after(first)
    frozen = Stage(1, encoder={"trainable": False, "cache_features": True})
    assert _equal(before, encoder_after(first, frozen))
    after = encoder_after(first, Stage(1, encoder={"train_from": "stage3"}))
    for module, leaves in before.items():
        assert _equal(leaves, after[module]) is not module.startswith(("stage3", "stage4")), module


def test_a_state_with_an_average_captions_with_it_and_keeps_both():
    variables = {"params": {"x": np.float32([1.0])}, "batch_stats": {}}
    state = TrainState.create(variables, optax.sgd(0.1), average=True)
    state = dataclasses.replace(state, average={"x": jax.numpy.zeros(1)})
    assert state.variables["params"]["x"] == 0
    assert state.training["params"]["x"] == 1
    again = TrainState.from_parts(state.variables, state.training)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert (again.params["x"], again.average["x"]) == (1, 0)
    plain = TrainState.create(variables, optax.sgd(0.1))
    assert plain.training.keys() == {"step", "opt_state"}  # as it was before there were averages
    assert TrainState.from_parts(plain.variables, plain.training) == plain


@pytest.mark.slow
def test_stages_are_saved_and_loaded(staged, tiny_config):
    config = _config(tiny_config)
    assert load_config(staged / "config.json") == config
    assert from_dict(Config, to_dict(config), where="x") == config
    assert differences(config, tiny_config)[-1].startswith("stages: (Stage(epochs=1")


def test_a_stage_is_the_configuration_but_for_its_own_options(tiny_config):
    first, second = stage_configs(validate(_config(tiny_config)))
    assert (first.train.epochs, second.train.epochs) == (1, 2)
    assert not first.encoder.trainable
    expected = changed(
        tiny_config,
        train__epochs=2,
        train__learning_rate=1e-3,
        train__schedule="constant",
        train__warmup_epochs=0.0,
        train__ema_decay=0.5,
        train__accumulate=2,
        encoder__train_from="stage3",
        encoder__learning_rate_factor=0.5,
        data__crop_min_scale=0.8,
    )
    assert second == expected
    assert stage_configs(tiny_config) == (tiny_config,)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage(0), r"stages\[0\]\.epochs is 0; it must be at least 1"),
        (Stage(1, train={"seed": 3}), r"stages\[0\]\.train: a stage cannot change 'seed'"),
        (Stage(1, train={"learning_rat": 3}), r"Did you mean 'learning_rate'\?"),
        (Stage(1, data={"image_size": 9}), r"stages\[0\]\.data: a stage cannot change 'image_si"),
        (Stage(1, encoder={"name": "vgg16"}), r"stages\[0\]\.encoder: a stage cannot change 'nam"),
        (Stage(1, train={"learning_rate": "x"}), r"stages\[0\]\.train\.learning_rate is 'x'"),
        (Stage(1, train={"schedule": "cosin"}), r"Did you mean 'cosine'\?"),
        (Stage(1, train={"learning_rate": 0.0}), r"train\.learning_rate is 0\.0; it must be gre"),
    ],
)
def test_invalid_stages_are_named(stage: Stage, message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(Config(stages=(stage,)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train__optimizer": "adamww"}, r"must be one of 'adamw', .*Did you mean 'adamw'\?"),
        ({"train__schedule": "linaer"}, r"Did you mean 'linear'\?"),
        ({"train__accumulate": 5}, r"does not divide the train\.batch_size of 32"),
        ({"train__sampling": "exponential"}, r"sampling_k is 1\.0; .* less than 1, such as 0\.9"),
        ({"train__sampling": "inverse_sigmoid", "train__sampling_k": 0.5}, r"at least 1"),
        ({"train__sampling": "linear", "train__sampling_k": 1.5}, r"at most 1"),
        ({"train__sampling": "linear"}, r"never reads its own words"),
        ({"train__ema_decay": 1.0}, r"train\.ema_decay is 1\.0; it must be at least 0 and less"),
    ],
)
def test_invalid_methods_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(changed(Config(), **options))


def test_stages_that_cannot_fit_into_memory_are_refused_before_anything_is_made(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "memory_bytes", lambda: 10**6)
    with pytest.raises(InputError, match=r"^training \(parameters and optimizer: .* only 0\.0 GB"):
        _train(_config(tiny_config), tmp_path / "run")
    assert not (tmp_path / "run").exists()
