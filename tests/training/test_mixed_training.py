"""Training on several data sets, with and without images, in stages with different weights."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configurations import changed
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.config import Config, Stage, validate
from jaxcap.datasets.building import build
from jaxcap.datasets.prepare import load_source, prepare
from jaxcap.datasets.shapes import recipe
from jaxcap.datasets.sources import SourceOptions
from jaxcap.evaluation import read_metrics
from jaxcap.messages.errors import InputError
from jaxcap.training import experiment, train
from jaxcap.training.divergence import Offender, load_offender, save_offender
from jaxcap.training.experiment import Experiment
from jaxcap.training.self_critical import create_reward
from jaxcap.training.setup import set_up
from jaxcap.training.stages import create_stages

pytestmark = pytest.mark.usefixtures("shared_programs")

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def config(
    tiny_data: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """50 scenes of shapes, 24 of more, and 20 texts."""
    data_dir = tmp_path_factory.mktemp("mixed")
    shutil.copytree(tiny_data / "shapes", data_dir / "shapes")
    build(dataclasses.replace(recipe({"train": 24}), name="more"), data_dir)
    lines = (f"a purple zebra and a red square\na zebra {i}\n" for i in range(20))
    (data_dir / "zebras.txt").write_text("\n".join(lines))
    options = SourceOptions(source=data_dir / "zebras.txt")
    prepare("text", options, name="zebras", data_dir=data_dir, console=QUIET)
    return changed(tiny_config, data__data_dir=str(data_dir), data__mixed_with=("zebras", "more"))


def in_stages(config: Config, *stages: dict[str, Any]) -> Config:
    """Return a run with a stage of one epoch for each set of options of data."""
    return validate(dataclasses.replace(config, stages=tuple(Stage(1, data=s) for s in stages)))


def created(config: Config, workdir: Path) -> Experiment:
    return set_up(validate(config), workdir / "run", console=QUIET)


IMAGES = {"data__mixed_with": ("more",)}
RECOGNISING = {"recognition__words": 4, "encoder__trainable": False}


def test_records_of_all_data_sets_have_numbers_of_their_own(config, tmp_path):
    data = created(changed(config, data__weights=(1.0, 0.0, 1.0)), tmp_path).data
    assert list(data.sets) == ["shapes", "zebras", "more"]
    firsts = {name: each.first_number for name, each in data.sets.items()}
    assert firsts == {"shapes": 0, "more": 50, "zebras": 74}  # images first
    directory = config.data.directory
    for number, (name, index) in {
        0: ("shapes", 0),
        49: ("shapes", 49),
        50: ("more", 0),
        93: ("zebras", 19),
    }.items():
        assert data.record(number) == load_source(name, "train", directory, text_too=True)[index]
    # References are those of all images, by number; those of texts would be of no use.
    assert len(data.captions) == 74
    for number in (0, 60, 73):
        name, index = ("shapes", number) if number < 50 else ("more", number - 50)
        assert data.captions[number] == data.sets[name].captions[index]
    reward = create_reward(data.captions, config.train)
    perfect = [np.array(data.captions[60][0][1:])[None]]
    scores = reward(np.array([60]), np.array(perfect))
    assert scores[0, 0] > reward(np.array([61]), np.array(perfect))[0, 0]


def test_the_vocabulary_is_that_of_all_data_sets(config, tmp_path):
    words = created(changed(config, data__weights=(1.0, 0.0, 0.0)), tmp_path).vocabulary.words
    assert {"zebra", "purple", "square"} <= set(words)
    few = created(
        changed(config, data__weights=(1.0, 0.0, 0.0), data__max_words=5), tmp_path
    ).vocabulary.words
    assert few[4:] == words[4:9]


def test_stages_count_their_epochs_by_their_own_weights(config, tmp_path):
    images = changed(config, **IMAGES)
    staged = in_stages(images, {"weights": (2.0, 1.0)}, {"weights": (0.0, 1.0)}, {})
    stages = create_stages(created(staged, tmp_path))
    # 6 batches of shapes at 2/3 of the steps; 3 batches of more alone; 6 at 50/74.
    assert [stage.steps_per_epoch for stage in stages] == [9, 3, 9]
    assert [stage.total for stage in stages] == [9, 12, 21]
    assert [stage.turns.read for stage in stages] == [(0, 0), (6, 3), (6, 6)]
    assert stages[2].epoch(12) == 2
    assert stages[2].epoch(21) == 3
    whole = [b.numbers for stage in stages for b in stage.batches(stage.first_step, stage.total)]
    of_more = np.concatenate([n - 50 for n in whole if (n >= 50).all()])
    for epoch in range(3):  # each pass over more, across the borders
        assert sorted(of_more[24 * epoch :][:24]) == list(range(24))[: len(of_more) - 24 * epoch]


@pytest.mark.slow
def test_a_mixed_training_resumes_exactly(config, tmp_path, monkeypatch):
    staged = in_stages(changed(config, **IMAGES), {"weights": (2.0, 1.0)}, {"weights": (0.5, 0.5)})
    train(staged, tmp_path / "whole", console=QUIET)
    scored = [x for x in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "dev/CIDEr-D" in x]
    assert [(x["step"], x["epoch"]) for x in scored] == [(9, 1), (21, 2)]

    class KilledError(Exception):
        pass

    whole = experiment.training_batches

    def killed(*args: Any, first_step: int, **kwargs: Any) -> Any:
        for step, batch in enumerate(whole(*args, first_step=first_step, **kwargs), first_step + 1):
            if step == 14:  # after the border, and after a checkpoint
                raise KilledError
            yield batch

    often = changed(staged, train__save_every=5)
    monkeypatch.setattr(experiment, "training_batches", killed)
    with pytest.raises(KilledError):
        train(often, tmp_path / "run", console=QUIET)
    monkeypatch.setattr(experiment, "training_batches", whole)
    train(often, tmp_path / "run", console=QUIET)
    found, expected = (load(tmp_path / name, best=False) for name in ("run", "whole"))
    assert found.step == expected.step == 21
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)


@pytest.mark.slow
def test_features_of_each_data_set_are_cached(config, tmp_path):
    cached = changed(
        config,
        **IMAGES,
        data__crop_min_scale=1.0,
        encoder__trainable=False,
        encoder__cache_features=True,
        encoder__cache_dir=str(tmp_path / "cache"),
        train__epochs=1,
    )
    plain = changed(cached, encoder__cache_features=False)
    for name, each in (("cached", cached), ("plain", plain)):
        train(each, tmp_path / name, console=QUIET)
    found, expected = (load(tmp_path / name, best=False) for name in ("cached", "plain"))
    for captioner in (found, expected):
        # Softmax ignores it: its gradient is rounding, which Adam scales up.
        del captioner.variables["params"]["decoder"]["key"]["bias"]
    for one, other in zip(
        jax.tree.leaves(found.variables), jax.tree.leaves(expected.variables), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)
    names = {path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()}
    assert names == {"shapes", "more"}


def test_a_batch_of_text_is_saved_and_loaded(config, tmp_path):
    text = changed(config, data__weights=(1.0, 1.0, 0.0), **RECOGNISING)
    batches = list(created(text, tmp_path).batches(0, 2))
    for step, batch in enumerate(batches):
        path = save_offender(Offender(batch, step, 0), tmp_path)
        found = load_offender(path).batch
        assert jax.tree.structure(found) == jax.tree.structure(batch)
        jax.tree.map(np.testing.assert_array_equal, found, batch)
    assert [batch.words is None for batch in batches] == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixed_with": ("mor",)}, r"no data set 'mor' in .* Did you mean 'more'"),
        ({"mixed_with": ("more", "shapes")}, "'shapes' is named twice"),
        ({"weights": (1.0, 2.0)}, "expected 3 numbers, one for each of shapes, zebras, more"),
        ({"weights": (1.0, -1.0, 1.0)}, "data.weights is .* each must be at least 0"),
        ({"weights": (1.0, float("nan"), 1.0)}, "each must be at least 0"),
        ({"weights": (float("inf"), 1.0, 1.0)}, "each must be at least 0"),
        (
            {"mixed_with": ("more",), "weights": (1e-310, 1.0)},
            r"train.epochs is 5, .* steps with data.weights \(1e-310, 1.0\): .* at most 10,000,000",
        ),
        ({"weights": (0.0, 0.0, 0.0)}, "no data set is read; give one of shapes, zebras, more"),
        ({"weights": ()}, "'zebras' holds captions without images, .* recognition.words is 0"),
        ({"name": "zebras", "mixed_with": ()}, "zebras holds captions without images, so nothing"),
    ],
)
def test_faulty_mixtures_are_refused_before_anything_is_written(config, tmp_path, options, message):
    faulty = dataclasses.replace(config, data=dataclasses.replace(config.data, **options))
    with pytest.raises(InputError, match=message):
        train(faulty, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_data_sets_that_a_stage_cannot_read_are_refused(config, tmp_path):
    read = (1.0, 0.0, 1.0)
    with pytest.raises(InputError, match="split of 'more' has only 24 images; give --train"):
        created(changed(config, data__weights=read, train__batch_size=30), tmp_path)
    unread = changed(config, data__weights=(1.0, 0.0, 0.0), train__batch_size=30)
    assert created(unread, tmp_path).steps_per_epoch == 1
    with pytest.raises(InputError, match=r"zebras.* train.objective is word_detection"):
        created(changed(config, **RECOGNISING, train__objective="word_detection"), tmp_path)
    alone = changed(config, **RECOGNISING, data__weights=(0.0, 1.0, 0.0), data__random_images=True)
    with pytest.raises(InputError, match=r"no data set of images is read beside 'zebras'"):
        created(alone, tmp_path)


def test_a_stage_of_too_many_steps_is_refused(config, tmp_path):
    mixed = changed(config, data__mixed_with=("more",))
    tiny = in_stages(mixed, {"weights": (1.0, 1.0)}, {"weights": (1e-9, 1.0)})
    with pytest.raises(InputError, match=r"data.weights .*: 6,000,000,007 in all; expected"):
        created(tiny, tmp_path)


def test_a_data_set_without_captions_is_refused(config, tmp_path):
    silent = recipe({"train": 9})
    mute = functools.partial(_without_captions, silent.make)
    build(dataclasses.replace(silent, name="mute", make=mute), config.data.directory, workers=1)
    with pytest.raises(InputError, match="the training split of 'mute' has no captions"):
        created(changed(config, data__mixed_with=("mute",)), tmp_path)


def _without_captions(make: Any, split: str, item: Any) -> dict[str, Any]:
    return {**make(split, item), "captions": ()}
