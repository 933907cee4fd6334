"""A training on captions of a script without spaces, from drawn scenes to captions and scores."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configurations import changed
from PIL import Image
from rich.console import Console

from jaxcap import training
from jaxcap.captioning.loaded_model import load
from jaxcap.config import Config
from jaxcap.data import images
from jaxcap.datasets.shapes import Object, Scene, draw
from jaxcap.evaluation import evaluate_source, read_metrics, write_evaluation
from jaxcap.messages.errors import InputError
from jaxcap.text.units import Characters, Pieces
from jaxcap.text.vocabulary import Vocabulary
from jaxcap.training import setup, training_data

pytestmark = pytest.mark.usefixtures("long_trainings")

COLOURS = {"red": "红色", "green": "绿色", "blue": "蓝色"}
SHAPES = {"circle": "圆形", "cross": "十字"}


def record(number: int, colour: str, shape: str) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    thing = Object(shape, colour, *rng.uniform(30, 50, 2).tolist(), 17.0)
    pixels = draw(Scene((thing,), "plain"), rng)
    caption = f"一个{COLOURS[colour]}的{SHAPES[shape]}"
    return {
        "image": _png(pixels),
        "image_id": f"{colour}-{shape}-{number}",
        "captions": [f"{caption}。", f"图中有{caption}"],
    }


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def split(first: int, count: int) -> list[dict[str, Any]]:
    kinds = itertools.cycle(itertools.product(COLOURS, SHAPES))
    return [record(first + n, *next(kinds)) for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("units", ["characters", "pieces"])
def test_a_captioner_learns_chinese(
    units: str, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if units == "pieces":
        pytest.importorskip("sentencepiece")
    splits = {"train": split(0, 96), "dev": split(100, 12)}
    for module in (setup, training_data):
        monkeypatch.setattr(module, "load_source", lambda name, part, directory, **_: splits[part])
    config = changed(
        tiny_config,
        data__units=units,
        data__vocabulary_size=28,
        data__crop_min_scale=1.0,
        data__captions_per_image=2,
        evaluation__units="characters",
        evaluation__metric="BLEU-4",
        train__epochs=6,
    )
    workdir = tmp_path / "run"
    training.train(config, workdir, console=Console(quiet=True))

    vocabulary = Vocabulary.load(workdir / "vocabulary.json")
    assert isinstance(vocabulary.units, Pieces if units == "pieces" else Characters)
    assert {"红", "绿", "蓝", "圆", "字"} <= set("".join(vocabulary.words))
    # From here on the run is all there is.
    run = load(workdir)
    found = [
        captioned.captions[0].text
        for captioned in run.caption([images.decode(r["image"], name="x") for r in splits["dev"]])
    ]
    sentences = {text for r in split(0, 6) for c in r["captions"] for text in (c, c.rstrip("。"))}
    assert set(found) <= sentences | {f"{text}。" for text in sentences}
    right = [
        COLOURS[r["image_id"].partition("-")[0]] in text
        for text, r in zip(found, splits["dev"], strict=True)
    ]
    assert np.mean(right) >= 0.75  # chance is one in three

    evaluation = evaluate_source(
        splits["dev"],
        decode=run.decode,
        variables=run.variables,
        vocabulary=run.vocabulary,
        config=run.config,
        report=lambda done, text: None,
        attention=True,
    )
    logged = [line for line in read_metrics(workdir / "metrics.jsonl") if line["step"] == run.step]
    assert evaluation.corpus["BLEU-4"] == pytest.approx(logged[-1]["dev/BLEU-4"])
    assert evaluation.corpus["BLEU-4"] > 50  # words would give 0 or a hit of the whole sentence
    write_evaluation(evaluation, splits["dev"], run, split="dev", command="none")
    metrics = json.loads((workdir / "metrics-dev.json").read_text(encoding="utf-8"))
    assert "|tok:graphemes.nfkc|case:lc|" in metrics["signature"]
    assert metrics["protocol"]["decoding"].endswith(f"at most 12 {units}")
    best = next(iter(evaluation.captions.values()))[0]
    assert best.text == vocabulary.units.join(best.tokens)
    assert len(best.tokens) + 1 == len(best.word_log_probs)
    # The page shows where the model looked as it wrote each of them.
    page = (workdir / "report-dev.html").read_text(encoding="utf-8")
    assert json.dumps("".join(best.tokens).strip("▁"), ensure_ascii=False)[1:-1] in page
    assert '"units":' in page

    # A second call resumes without training the pieces again; other units are another experiment.
    monkeypatch.setattr(Pieces, "train", lambda *args, **kwargs: pytest.fail("learnt again"))
    training.train(config, workdir, console=Console(quiet=True))
    with pytest.raises(InputError, match=r"data\.normalisation: 'NFC', expected 'NFKC'"):
        training.train(
            changed(config, data__normalisation="NFKC"), workdir, console=Console(quiet=True)
        )
