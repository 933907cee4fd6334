"""A whole training in seconds: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configurations import changed
from event_reader import assert_shows_its_log
from limits import files_up_to
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.config import Config, load_config, save_config
from jaxcap.datasets.building import build
from jaxcap.datasets.shapes import recipe
from jaxcap.evaluation import read_metrics
from jaxcap.messages.errors import InputError
from jaxcap.text.vocabulary import Vocabulary
from jaxcap.training import Summary, experiment, train
from jaxcap.training.log import Log
from jaxcap.training.workdir import check, claim


def run(config: Config, workdir: Path) -> tuple[Summary, str]:
    console = Console(file=io.StringIO(), width=100)
    summary = train(config, workdir, console=console)
    return summary, console.file.getvalue()


def lines(workdir: Path) -> list[dict[str, float]]:
    return read_metrics(workdir / "metrics.jsonl")


def test_the_loss_falls_and_the_log_holds_every_step_once(tiny_run):
    log = lines(tiny_run)
    losses = {line["step"]: line["loss"] for line in log if "loss" in line}
    # Six steps an epoch, a line every four, at each end of an epoch and at the first step.
    assert list(losses) == [1, 4, 6, 8, 12, 16, 18, 20, 24, 28, 30]
    assert losses[30] < 0.6 * losses[1]
    assert losses[1] == pytest.approx(np.log(len(load(tiny_run).vocabulary)), rel=0.1)
    scores = [line for line in log if "dev/CIDEr-D" in line]
    assert [line["step"] for line in scores] == [6, 12, 18, 24, 30]
    assert all("dev/true and complete" in line for line in scores)
    elapsed = [line["elapsed_s"] for line in log]
    assert elapsed == sorted(elapsed)


def test_a_run_keeps_its_configuration_words_latest_and_best(tiny_run, tiny_config):
    assert load_config(tiny_run / "config.json") == tiny_config
    words = Vocabulary.load(tiny_run / "vocabulary.json").words
    assert {"red", "circle", "left"} <= set(words)
    scores = {s["step"]: s["dev/CIDEr-D"] for s in lines(tiny_run) if "dev/CIDEr-D" in s}
    best = max(scores, key=lambda step: (scores[step], step))
    kept = {int(p.name) for p in (tiny_run / "checkpoints").iterdir()}
    assert kept == {best, 24, 30}
    assert load(tiny_run).step == best
    assert load(tiny_run, best=False).step == 30


@pytest.mark.slow
@pytest.mark.usefixtures("long_trainings")
def test_a_killed_training_ends_as_if_it_had_not_been_killed(
    tiny_run, tiny_config, tmp_path, monkeypatch
):
    class KilledError(Exception):
        pass

    whole = experiment.training_batches

    def killed(*args: Any, **kwargs: Any):
        for step, batch in enumerate(whole(*args, **kwargs), start=1):
            if step == 16:  # in the middle of the third epoch of six steps
                raise KilledError
            yield batch

    workdir = tmp_path / "run"
    monkeypatch.setattr(experiment, "training_batches", killed)
    with pytest.raises(KilledError):
        run(tiny_config, workdir)
    # What else a kill may leave: half a line, half a checkpoint, and a file beside its place.
    with (workdir / "metrics.jsonl").open("a") as log:
        log.write('{"step": 16, "los')
    (workdir / "checkpoints" / "18.orbax-checkpoint-tmp" / "variables").mkdir(parents=True)
    (workdir / "metrics.jsonl.part").write_text("{")
    monkeypatch.setattr(experiment, "training_batches", whole)

    summary, output = run(tiny_config, workdir)

    assert "Resuming from step 12" in output
    found, expected = load(workdir, best=False), load(tiny_run, best=False)
    assert found.step == expected.step == 30
    for one, other in zip(
        jax.tree.leaves(found.variables), jax.tree.leaves(expected.variables), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    timeless = [
        [
            {k: v for k, v in line.items() if not k.endswith(("_s", "_share", "_gib"))}
            for line in lines(each)
            # The first step of a session has no line of its own when it goes on.
            if line["step"] > 12 or "dev/CIDEr-D" in line
        ]
        for each in (workdir, tiny_run)
    ]
    assert timeless[0] == timeless[1]
    steps = [(line["step"], "loss" in line) for line in lines(workdir)]
    assert len(steps) == len(set(steps))
    assert summary.best_step == load(tiny_run).step
    assert_shows_its_log(workdir)


@pytest.mark.slow
def test_a_finished_training_returns_its_result_again(tiny_run, tiny_config, tmp_path):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    summary, output = run(tiny_config, workdir)
    assert lines(workdir) == lines(tiny_run)
    best = next(
        line
        for line in lines(tiny_run)
        if line["step"] == summary.best_step and "dev/CIDEr-D" in line
    )
    assert summary.scores["CIDEr-D"] == best["dev/CIDEr-D"]
    assert "Compiling" not in output
    assert summary.seconds == pytest.approx(lines(tiny_run)[-1]["elapsed_s"], abs=5)


@pytest.mark.slow
def test_damage_to_the_words_does_not_enter_the_next_checkpoint(tiny_run, tiny_config, tmp_path):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    damaged = changed(tiny_config, recognition__detected_words=("circle",))
    save_config(damaged, workdir / "config.json")
    with pytest.raises(InputError, match=r"config\.json is not the one that the checkpoint"):
        run(tiny_config, workdir)


@pytest.mark.slow
def test_data_may_move_between_sessions(tiny_run, tiny_config, tiny_data, tmp_path):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.copytree(tiny_data, tmp_path / "moved")
    run(changed(tiny_config, data__data_dir=str(tmp_path / "moved")), workdir)
    assert load_config(workdir / "config.json").data.data_dir == str(tmp_path / "moved")


def test_another_configuration_is_refused_by_listing_the_differences(tiny_run, tiny_config):
    other = changed(tiny_config, train__batch_size=4, decoder__hidden_size=7)
    with pytest.raises(InputError) as caught:
        run(other, tiny_run)
    message = str(caught.value)
    assert "train.batch_size: 8, expected 4" in message
    assert "decoder.hidden_size: 32, expected 7" in message
    assert message.count("expected") == 2
    assert load_config(tiny_run / "config.json") == tiny_config


def test_a_run_keeps_the_words_that_it_recorded(tiny_config, tmp_path):
    save_config(
        changed(tiny_config, recognition__detected_words=("dog",)), tmp_path / "config.json"
    )
    check(tmp_path, tiny_config)
    with pytest.raises(InputError, match=r"detected_words: \('dog',\), expected \('cat',\)"):
        check(tmp_path, changed(tiny_config, recognition__detected_words=("cat",)))


def test_other_folders_and_files_are_not_touched(tiny_config, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("")
    (tmp_path / "file").write_text("mine")
    for workdir in (tmp_path / "photos", tmp_path / "file"):
        with pytest.raises(InputError, match="exists but is not a run"):
            run(tiny_config, workdir)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["a.jpg"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data__name": "shape"}, "no data set 'shape'.*Did you mean 'shapes'"),
        ({"data__data_dir": "/nowhere"}, "not prepared in /nowhere. Run: jaxcap prepare shapes"),
        ({"evaluation__split": "val"}, "no split 'val'"),
        ({"evaluation__metric": "CIDEr"}, "'CIDEr'.*give one of BLEU-1.*Did you mean 'CIDEr-D'"),
        ({"train__batch_size": 52}, "batch_size is 52.*only 50 images"),
        ({"data__min_count": 10**6}, "lower data.min_count"),
        ({"data__flip": True}, "data.flip is true.*say what is left.*Give --data.no-flip"),
        ({"encoder__name": "resnet_smal"}, "Did you mean 'resnet_small'"),
        ({"encoder__weights": "/nowhere.pth"}, "/nowhere.pth"),
        ({"encoder__train_from": "stage5"}, "stages: stem, stage1, stage2, stage3, stage4"),
    ],
)
def test_invalid_trainings_are_refused_before_a_run_is_created(
    tiny_config, tmp_path, options, message
):
    with pytest.raises(InputError, match=f"(?s){message}"):
        run(changed(tiny_config, **options), tmp_path / "run")
    # The next attempt, with other options, must not meet a run "of another configuration".
    assert not (tmp_path / "run").exists()


def test_an_empty_split_is_refused(tiny_config, tmp_path):
    build(recipe({"train": 8, "dev": 2}), tmp_path / "data")
    config = changed(
        tiny_config, data__data_dir=str(tmp_path / "data"), evaluation__split="dev[:0]"
    )
    with pytest.raises(InputError, match=r"'dev\[:0\]' of shapes is empty"):
        run(config, tmp_path / "run")


def test_a_data_set_that_changed_is_noticed(tiny_run, tiny_config, tmp_path):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    Vocabulary((*Vocabulary.load(workdir / "vocabulary.json").words, "new")).save(
        workdir / "vocabulary.json"
    )
    with pytest.raises(InputError, match="the data set has changed since this run started"):
        run(tiny_config, workdir)


def test_an_unwritable_directory_is_named(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write there"):
        run(tiny_config, tmp_path / "file" / "run")


def test_a_full_disk_names_the_log(tmp_path):
    log = Log(tmp_path / "metrics.jsonl", 0, split="dev")
    with files_up_to(8), pytest.raises(OSError, match=r"metrics\.jsonl"):
        log.write({"step": 1, "loss": 1.0})


@pytest.mark.parametrize(("size", "name"), [(2, ".lock"), (200, "config.json")])
def test_a_full_disk_names_what_a_run_begins_with(tmp_path, size, name):
    full = pytest.raises(InputError, match=rf"run/{name}: File too large\. Free some space, then")
    with files_up_to(size), full, claim(tmp_path / "run", Config(), Vocabulary(("<pad>",))):
        pass


def test_a_read_only_directory_is_named(tiny_config, tmp_path, monkeypatch):
    """Also as root, who may write anywhere but on a read-only disk."""

    def mkdir(path: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(
        InputError, match=r"run: cannot write there \(Read-only file system\)\. Give another --work"
    ):
        run(tiny_config, tmp_path / "run")
