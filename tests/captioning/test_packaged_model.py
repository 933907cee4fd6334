"""The model in the package: it is there, says what it is, and captions what lies in examples/."""

from __future__ import annotations

import importlib.resources
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import jaxcap
from jaxcap.captioning import loaded_model
from jaxcap.captioning.decoding import describe
from jaxcap.captioning.export import export_program
from jaxcap.commands import caption, evaluate
from jaxcap.config import Config, from_dict
from jaxcap.files import cache_dir, hub
from jaxcap.messages.errors import InputError
from jaxcap.storage import published
from jaxcap.storage.packaged import DEFAULT, packaged

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PEOPLE = {"man", "woman", "person", "people", "boy", "girl", "child", "men", "women", "lady"}


@pytest.fixture(scope="module")
def about() -> dict:
    return published._about(packaged())


@pytest.fixture(scope="module")
def scores() -> dict:
    """What `make model` measured."""
    return json.loads(packaged().with_suffix(".json").read_text("utf-8"))


def test_the_file_is_part_of_the_package():
    resource = importlib.resources.files("jaxcap.pretrained") / f"{DEFAULT}.safetensors"
    with importlib.resources.as_file(resource) as path:
        assert path == packaged()
        assert path.stat().st_size <= 40e6
    assert packaged().with_suffix(".json").is_file()


def test_it_says_what_it_is_and_how_to_decode(about, scores):
    assert "Flickr8k" in about["note"]
    assert "research" in about["note"]
    config = from_dict(Config, about["config"], where="config")
    # Its scores belong to this file and are obtained with the search that it asks for.
    assert scores["protocol"]["checkpoint"] == f"step {about['step']}"
    assert scores["protocol"]["decoding"] == describe(config.search, config.data.units)
    assert (scores["protocol"]["split"], scores["protocol"]["images"]) == ("dev", 1000)


def test_the_card_has_its_scores(scores):
    card = (ROOT / "docs" / "model_card.md").read_text("utf-8")
    names, values = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", card, re.MULTILINE)
        if "BLEU-1" in line or re.match(r"^\| *\d\d\.\d", line)
    )
    found = dict(zip(names, values, strict=True))
    assert found == {name: f"{value:.1f}" for name, value in scores["scores"].items()}
    assert scores["protocol"]["decoding"] in card


def test_every_picture_has_its_author_and_licence():
    rows = re.findall(r"^\| `(.*?)` \|(.*)\|$", (EXAMPLES / "README.md").read_text("utf-8"), re.M)
    pictures = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix == ".jpg")
    assert sorted(name for name, _ in rows) == pictures
    assert 12 <= len(pictures) <= 24
    for name, row in rows:
        _, author, licence, source = (cell.strip() for cell in row.split("|"))
        assert author
        assert source
        assert licence in ("public domain", "CC0")
        assert (EXAMPLES / name).stat().st_size <= 60_000
        with Image.open(EXAMPLES / name) as image:
            assert max(image.size) <= 640


def test_its_program_takes_any_number_of_images():
    program = export_program(jaxcap.load().single)
    assert str(program.in_avals[0]) == "uint8[b,256,256,3]"
    assert str(program.out_avals[0]) == "int32[b,5,25]"


def test_captions_without_a_model_being_named(about, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    errors = io.StringIO()
    console = Console(file=errors, width=1000, markup=False, highlight=False)
    assert caption.run(caption.CaptionArguments((EXAMPLES,)), console) == 0
    assert errors.getvalue() == f"Captioning with the model in the package ({about['note']})\n"
    lines = capsys.readouterr().out.splitlines()
    found = {Path(name).stem: text.split() for name, text in (line.split("\t") for line in lines)}
    assert sorted(found) == sorted(path.stem for path in EXAMPLES.glob("*.jpg"))
    known = set(about["vocabulary"]["words"])
    for words in found.values():
        assert 3 <= len(words) <= about["config"]["search"]["max_length"]
        assert known.issuperset(words)
    assert len(set(map(tuple, found.values()))) > len(found) / 2
    assert PEOPLE & set(found["astronaut"])
    for name in ("cat", "coffee", "cow", "dog", "sheep"):
        assert name in found[name]
    # The program is kept for the next process, and so is the finding that the file is in order.
    assert len(list((tmp_path / "jaxcap" / "programs").iterdir())) == 2


def test_one_photograph_gives_a_string(tmp_path):
    path = EXAMPLES / "sheep.jpg"
    text = jaxcap.caption(path)
    assert "sheep" in text.split()
    with Image.open(path) as photo:
        assert jaxcap.caption(photo) == text
    with pytest.raises(InputError, match=r"missing\.jpg: "):
        jaxcap.caption(tmp_path / "missing.jpg")
    with pytest.raises(InputError, match=r"one image.*jaxcap\.load\(\)\.caption"):
        jaxcap.caption(np.zeros((2, 8, 8, 3), np.uint8))


def test_a_captioner_on_the_hub_is_loaded_by_its_name(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(hub, "fetch", lambda reference: asked.append(reference) or packaged())
    assert jaxcap.load("hf:somebody/captioner@v1").directory == packaged()
    assert asked == ["hf:somebody/captioner@v1"]


def test_a_program_is_no_model(tmp_path):
    with pytest.raises(InputError, match=r"x\.stablehlo: an exported program"):
        jaxcap.load(tmp_path / "x.stablehlo")


def test_a_package_without_its_model(monkeypatch, tmp_path):
    monkeypatch.setattr("jaxcap.storage.packaged.FOLDER", tmp_path)
    with pytest.raises(InputError, match=r"without its model.*--model"):
        loaded_model.load()


def test_a_published_model_is_evaluated_into_a_folder(tiny_run, tiny_data, tmp_path):
    file, output = tmp_path / "tiny.safetensors", tmp_path / "made" / "scores"
    published.write(loaded_model.load(tiny_run).single, file, note="drawn scenes")
    console = Console(quiet=True)
    arguments = evaluate.EvaluateArguments(file, split="test", data_dir=tiny_data, output=output)
    assert evaluate.run(arguments, console) == 0
    names = ("metrics-test.json", "predictions-test.json", "report-test.html")
    assert sorted(path.name for path in output.iterdir()) == list(names)
    assert len(json.loads((output / names[1]).read_text())) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "tiny.safetensors"]


def test_a_note_stays_with_the_model(tiny_run, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    published.write(loaded_model.load(tiny_run).single, first, note="drawn scenes")
    run = loaded_model.load(first)
    assert run.note == "drawn scenes"
    published.write(run.single, second)
    assert published.read(second).note == "drawn scenes"
    published.write(run.single, second, note="")
    assert published.read(second).note == ""


def test_who_has_no_home_has_no_cache(monkeypatch, tmp_path):
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir("xla") is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir("xla") == tmp_path / "jaxcap" / "xla"
