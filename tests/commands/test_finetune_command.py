"""`jaxcap finetune`: what it takes over from the model, and the comparison that it ends with."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.commands.evaluate import evaluate_split
from jaxcap.commands.finetune import parse, run
from jaxcap.config import load_config, save_config
from jaxcap.datasets.prepare import load_source
from jaxcap.messages.errors import InputError
from jaxcap.storage import manifest

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture
def options(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> list[str]:
    named = {
        "data": "shapes",
        "model": tiny_run,
        "data-dir": tiny_data,
        "workdir": tmp_path / "tuned",
        "encoder.cache-dir": tmp_path / "features",
    }
    return [str(text) for option, value in named.items() for text in (f"--{option}", value)]


@pytest.mark.slow
def test_the_model_decides_architecture_and_preprocessing(
    options: list[str], tiny_run: Path
) -> None:
    tuned, model = parse(options).config, load_config(tiny_run / "config.json")
    assert tuned.data.image_size == model.data.image_size
    assert tuned.data.length_buckets == model.data.length_buckets
    assert tuned.decoder.hidden_size == model.decoder.hidden_size
    assert tuned.search == model.search
    assert tuned.train.start_from == str(tiny_run)
    assert tuned.train.extend_vocabulary
    assert not tuned.encoder.trainable


@pytest.mark.slow
def test_the_model_names_no_folder_to_write_to(
    options: list[str], tiny_run: Path, tmp_path: Path
) -> None:
    hostile = shutil.copytree(tiny_run, tmp_path / "hostile")
    for path in (hostile / "config.json", *hostile.glob("checkpoints/*/config.json")):
        config = load_config(path)
        encoder = dataclasses.replace(config.encoder, cache_dir="/somewhere")
        save_config(dataclasses.replace(config, encoder=encoder), path)
    for path in hostile.glob("checkpoints/*"):
        content = manifest.read_content(path)
        assert content is not None
        manifest.write_manifest(path, content)
    options[options.index("--model") + 1] = str(hostile)
    at = options.index("--encoder.cache-dir")
    assert parse(options).config.encoder.cache_dir == str(tmp_path / "features")
    assert parse([*options[:at], *options[at + 2 :]]).config.encoder.cache_dir is None


@pytest.mark.slow
def test_a_finished_run_keeps_the_rules_that_it_chose(options: list[str], tmp_path: Path) -> None:
    at = options.index("--model")
    packaged = [*options[:at], *options[at + 2 :]]
    config = parse(packaged).config
    assert config.search == load().config.search
    assert (config.search.no_repeated_content, config.search.unrecognised_penalty) == (True, 3.0)

    chosen = dataclasses.replace(config.search, no_repeated_content=False, beam_size=2)
    (tmp_path / "tuned").mkdir()
    save_config(dataclasses.replace(config, search=chosen), tmp_path / "tuned" / "config.json")
    again = parse(packaged).config.search
    assert again == dataclasses.replace(config.search, no_repeated_content=False)


@pytest.mark.slow
def test_before_and_after_are_compared(
    options: list[str], tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO(), width=100)
    assert run(parse([*options, "--train.epochs", "1", "--search.beam-size", "1"]), console) == 0
    printed = console.file.getvalue()
    metrics = (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metrics[0])["step"] == 0
    # The original captioner keeps its own search.
    dev = load_source("shapes", "dev", tiny_data)
    before = evaluate_split(load(tiny_run), dev, "dev", Console(quiet=True)).corpus
    row = next(line for line in printed.splitlines() if "│ CIDEr-D" in line)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells[1] == f"{before['CIDEr-D']:.1f}"
    after = load(tmp_path / "tuned")
    scores = json.loads((tmp_path / "tuned" / "metrics-dev.json").read_text())["scores"]
    assert cells[2] == f"{scores['CIDEr-D']:.1f}"
    assert float(cells[3]) == pytest.approx(float(cells[2]) - float(cells[1]), abs=0.11)
    low, high = map(float, cells[4].split(" … "))
    assert low <= float(cells[3]) <= high
    assert f"jaxcap caption PHOTO.jpg --model {tmp_path / 'tuned'}" in printed
    assert f"jaxcap evaluate {tmp_path / 'tuned'} --split test --data-dir {tiny_data}" in printed
    # The shapes' words are all known, so the vocabulary did not change.
    assert after.vocabulary == load(tiny_run).vocabulary


def test_a_missing_data_set_is_named(options: list[str]) -> None:
    with pytest.raises(InputError, match="no data set 'holiday'"):
        parse([*options, "--data", "holiday"])
    with pytest.raises(InputError, match=r"'holiday'\. Name a data set with --data holiday"):
        parse(["holiday"])
