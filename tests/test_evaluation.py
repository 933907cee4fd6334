"""Evaluation of a split, and the three files it leaves."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxcap.data import shapes
from jaxcap.data.prepare import Records, load_source
from jaxcap.evaluation import (
    TRUE,
    Evaluation,
    evaluate_source,
    read_metrics,
    score_names,
    write_evaluation,
)
from jaxcap.inference import Caption, Run, load
from jaxcap.metrics import evaluate_captions


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory) -> Run:
    return load(shutil.copytree(tiny_run, tmp_path_factory.mktemp("evaluated") / "run"))


@pytest.fixture(scope="module")
def scenes(tiny_data) -> Records:
    return load_source("shapes", "test", tiny_data)


def evaluate(run: Run, source: Records, told: list[int] | None = None) -> Evaluation:
    return evaluate_source(
        source,
        decode=run.decode,
        variables=run.variables,
        vocabulary=run.vocabulary,
        config=run.config,
        report=lambda done, note: None if told is None else told.append(done),
    )


@pytest.fixture(scope="module")
def evaluation(run, scenes) -> Evaluation:
    return evaluate(run, scenes)


def test_every_image_is_captioned_once_and_in_order(run, scenes, evaluation):
    told: list[int] = []
    again = evaluate(run, scenes, told)
    assert list(again.captions) == [f"test-{i:05d}" for i in range(5)]
    assert told == [4, 5]  # batches of 4: the last one is not full
    assert again.captions == evaluation.captions
    assert again.references == {record["image_id"]: record["captions"] for record in scenes}


def test_captions_equal_those_of_captioning_the_same_files(run, scenes, evaluation):
    captioned = list(run.caption([record["image"] for record in scenes], batch_size=4))
    for each, (name, captions) in zip(captioned, evaluation.captions.items(), strict=True):
        assert [c.text for c in each.captions] == [c.text for c in captions], name
        np.testing.assert_allclose(
            [c.log_prob for c in each.captions], [c.log_prob for c in captions], atol=1e-4
        )


def test_scores_are_those_of_the_best_captions_and_truth_is_by_geometry(scenes, evaluation):
    best = {name: captions[0].text for name, captions in evaluation.captions.items()}
    expected = evaluate_captions(best, evaluation.references)
    assert evaluation.corpus == expected.corpus | {TRUE: evaluation.corpus[TRUE]}
    verdicts = [
        shapes.is_true_and_complete(
            best[record["image_id"]], shapes.scene_from_json(record["scene"])
        )
        for record in scenes
    ]
    assert list(evaluation.verdicts.values()) == verdicts
    assert evaluation.corpus[TRUE] == pytest.approx(100 * np.mean(verdicts))
    assert score_names(scenes) == tuple(evaluation.corpus)


def test_the_files(run, scenes, evaluation):
    # A caption that HTML would swallow, in a name that JSON must quote.
    name = next(iter(evaluation.captions))
    nasty = Caption('<script>alert("é")</script> & co', -1.0)
    changed = dataclasses.replace(evaluation, captions=evaluation.captions | {name: (nasty,)})
    paths = write_evaluation(changed, scenes, run, split="test", command="evaluate.py 'a b'")
    assert [p.name for p in paths] == [
        "predictions-test.json",
        "metrics-test.json",
        "report-test.html",
    ]
    predictions = json.loads(paths[0].read_text(encoding="utf-8"))
    assert predictions == [
        {"image_id": n, "caption": captions[0].text} for n, captions in changed.captions.items()
    ]
    metrics = json.loads(paths[1].read_text(encoding="utf-8"))
    assert metrics["scores"] == evaluation.corpus
    protocol = metrics["protocol"]
    assert (protocol["data"], protocol["split"], protocol["images"]) == ("shapes", "test", 5)
    assert protocol["checkpoint"] == f"step {run.step}"
    assert "beam 2" in protocol["decoding"]
    page = paths[2].read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&quot;é&quot;)&lt;/script&gt; &amp; co" in page
    for captions in changed.captions.values():
        assert captions[0].text.split(" ")[-1] in page
    assert all(str(reference) in page for refs in changed.references.values() for reference in refs)
    assert not list(run.directory.glob(".*"))


def test_a_log_that_was_cut_off(tmp_path: Path):
    assert read_metrics(tmp_path / "none") == []
    (tmp_path / "log").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    assert read_metrics(tmp_path / "log") == [{"step": 1, "loss": 2.5}]
