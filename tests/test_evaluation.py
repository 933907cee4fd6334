"""Evaluation of a split, and the three files it leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configurations import changed

from jaxcap.captioning.decoding import Decoded
from jaxcap.captioning.loaded_model import LoadedModel, load
from jaxcap.captioning.results import Caption
from jaxcap.captioning.stream import caption_batches
from jaxcap.data import images
from jaxcap.data.batch import Batch
from jaxcap.datasets import shapes
from jaxcap.datasets.prepare import Records, load_source
from jaxcap.evaluation import (
    TRUE,
    Evaluation,
    evaluate_source,
    read_metrics,
    score_names,
    write_evaluation,
)
from jaxcap.messages.errors import InputError
from jaxcap.metrics import evaluate_captions
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.search import SearchResult
from jaxcap.text.vocabulary import BOS, EOS


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory) -> LoadedModel:
    return load(shutil.copytree(tiny_run, tmp_path_factory.mktemp("evaluated") / "run"))


@pytest.fixture(scope="module")
def scenes(tiny_data) -> Records:
    return load_source("shapes", "test", tiny_data)


def evaluate(
    run: LoadedModel, source: Records, told: list[int] | None = None, *, attention: bool = False
) -> Evaluation:
    return evaluate_source(
        source,
        decode=run.decode,
        variables=run.variables,
        vocabulary=run.vocabulary,
        config=run.config,
        report=lambda done, note: None if told is None else told.append(done),
        attention=attention,
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


def test_a_small_split_is_not_padded_to_a_whole_batch(run, scenes, evaluation):
    rows = []

    def decode(variables, batches):
        rows.append(len(batches[0].pixels))
        return run.decode(variables, batches)

    config = changed(run.config, evaluation__batch_size=32)
    found = evaluate_source(
        scenes,
        decode=decode,
        variables=run.variables,
        vocabulary=run.vocabulary,
        config=config,
        report=lambda done, note: None,
    )
    assert rows == [8]
    assert found.corpus == evaluation.corpus


def test_images_of_one_name_are_all_scored(run, scenes, evaluation):
    """As in data sets of other programs."""
    named = [record | {"image_id": "x" if i < 3 else "y"} for i, record in enumerate(scenes)]
    found = evaluate(run, named)
    assert list(found.captions) == ["x", "x (record 1)", "x (record 2)", "y", "y (record 4)"]
    assert list(found.captions.values()) == list(evaluation.captions.values())
    assert found.corpus == evaluation.corpus
    page = write_evaluation(found, named, run, split="test", command="")[2].read_text("utf-8")
    rows = json.loads(page.split('id="rows">')[1].split("</script>")[0])
    assert [row["id"] for row in rows] == list(found.captions)


def test_captions_equal_those_of_captioning_the_same_files(run, scenes, evaluation):
    captioned = list(run.caption([record["image"] for record in scenes], batch_size=4))
    for each, (name, captions) in zip(captioned, evaluation.captions.items(), strict=True):
        assert [c.text for c in each.captions] == [c.text for c in captions], name
        np.testing.assert_allclose(
            [c.log_prob for c in each.captions], [c.log_prob for c in captions], atol=1e-4
        )


def test_words_have_probabilities_that_multiply_to_the_captions(run, scenes, evaluation):
    for captions in evaluation.captions.values():
        for caption in captions:
            words = caption.text.split(" ") if caption.text else []
            assert len(caption.word_log_probs) - len(words) in (0, 1)  # with <eos> if it came
            assert sum(caption.word_log_probs) == pytest.approx(caption.log_prob, abs=1e-4)
            assert caption.attention is None  # not asked for


def test_attention_is_what_reading_the_caption_back_gives(run, scenes):
    """Search keeps the weights of each word through all its reorderings of beams."""
    evaluation = evaluate(run, scenes, attention=True)
    ids = {word: i for i, word in enumerate(run.vocabulary.words)}
    lengths, tokens = [], np.zeros((len(scenes), 1, 13), np.int32)
    for row, captions in enumerate(evaluation.captions.values()):
        words = [ids[word] for word in captions[0].text.split(" ") if word]
        lengths.append(len(words))
        tokens[row, 0, : len(words) + 1] = [BOS, *words]
    size = run.config.data.image_size
    batch = np.stack([images.resize(images.decode(r["image"], name="x"), size) for r in scenes])
    read = jax.jit(run.model.apply)(run.variables, batch, tokens)
    for row, (best, *others) in enumerate(evaluation.captions.values()):
        weights = np.asarray(read.weights)[row, 0, : lengths[row]]
        expected = 255 * weights / weights.max(axis=-1, keepdims=True)
        assert best.attention is not None
        assert best.attention.dtype == np.uint8
        np.testing.assert_allclose(best.attention, expected, atol=0.6)  # half a step of rounding
        assert [other.attention for other in others] == [None] * len(others)


def test_a_decoder_without_attention_has_none(run):
    found = SearchResult(
        tokens=jnp.array([[[4, EOS, 0], [EOS, 0, 0]]]),
        word_log_probs=jnp.array([[[-1.0, -0.5, 0.0], [-2.0, 0.0, 0.0]]]),
        scores=jnp.array([[-0.75, -2.0]]),
        weights=jnp.zeros((1, 2, 3, 0)),  # P = 0
        satisfied=jnp.ones((1, 2), bool),
    )
    nothing = RecognisedWords(jnp.zeros((1, 0), jnp.int32), jnp.zeros((1, 0)))
    decoded = Decoded(found, nothing, jnp.zeros((1, 5)))
    batch = Batch(
        pixels=np.zeros((1, 8, 8, 3), np.uint8),
        tokens=np.zeros((1, 1, 1), np.int32),
        valid=np.ones(1, bool),
        numbers=np.array([7], np.int32),
    )
    ((number, result),) = caption_batches(
        lambda variables, images: decoded, ({},), [batch], run.vocabulary, attention=True
    )
    assert number == 7
    assert result.captions == (
        Caption(run.vocabulary.words[4], -1.5, (-1.0, -0.5)),
        Caption("", -2.0, (-2.0,)),
    )
    assert [caption.attention for caption in result.captions] == [None, None]


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
    for name, (low, high) in metrics["intervals"].items():
        assert low <= metrics["scores"][name] <= high
    assert metrics["signature"].startswith("BLEU|ROUGE-L|CIDEr-D|jaxcap:")
    assert "|images:5|refs:5|" in metrics["signature"]
    protocol = metrics["protocol"]
    assert (protocol["data"], protocol["split"], protocol["images"]) == ("shapes", "test", 5)
    assert protocol["checkpoint"] == f"step {run.step}"
    assert "beam 2" in protocol["decoding"]
    page = paths[2].read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert metrics["signature"] in re.sub("</?span>", "", page)
    rows = json.loads(page.split('id="rows">')[1].split("</script>")[0])
    assert [row["id"] for row in rows] == list(changed.captions)
    assert rows[0]["captions"] == [[nasty.text, -1.0]]
    for row in rows:
        assert row["references"] == changed.references[row["id"]]
        assert row["scores"]["CIDEr-D"] == pytest.approx(
            changed.per_image[row["id"]]["CIDEr-D"], abs=1e-4
        )
        assert row["verdict"] == changed.verdicts[row["id"]]
        assert row["size"] == [80, 80]  # as drawn, for none is enlarged
    assert [c for c, _ in rows[1]["captions"]] == [
        caption.text for caption in changed.captions[rows[1]["id"]]
    ]
    assert {path.name for path in run.directory.glob(".*")} <= {".lock"}  # of the training


def test_damaged_lines_of_a_log_are_left_out(tmp_path: Path):
    assert read_metrics(tmp_path / "none") == []
    (tmp_path / "log").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    assert read_metrics(tmp_path / "log") == [{"step": 1, "loss": 2.5}]
    for damage in (
        "[" * 5000,
        "[]",
        '{"step": "1"}',
        '{"loss": 1}',
        '{"step": 1' + "0" * 400 + "}",
        '{"step": -1}',
        '{"step": 1.5}',
        '{"step": true}',
        '{"step": 1, "loss": 1e39}',
        '{"step": 1, "elapsed_s": Infinity}',
        '{"step": 1, "elapsed_s": -1}',
    ):
        (tmp_path / "log").write_text(f'{{"step": 1, "loss": 2.5}}\n{damage}\n{{"step": 2}}\n')
        assert read_metrics(tmp_path / "log") == [{"step": 1, "loss": 2.5}, {"step": 2}]


def test_an_endless_log_is_refused(tmp_path: Path):
    (tmp_path / "log").touch()
    os.truncate(tmp_path / "log", 2**40)
    with pytest.raises(InputError, match=r"log: the file has 1,099,511,627,776 bytes; expected at"):
        read_metrics(tmp_path / "log")
