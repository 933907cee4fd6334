"""`jaxcap export`: two formats, and options that it refuses before the work."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.commands.export import ExportArguments, run
from jaxcap.commands.search_options import SearchOptions
from jaxcap.datasets.prepare import load_source
from jaxcap.messages.errors import InputError
from jaxcap.storage import published

pytestmark = pytest.mark.usefixtures("shared_programs")


def _run(*arguments: Path | str, **options: object) -> int:
    console = Console(file=io.StringIO(), markup=False)
    names = {field.name for field in dataclasses.fields(SearchOptions)}
    search = SearchOptions(**{name: options.pop(name) for name in names & options.keys()})
    return run(ExportArguments(*map(Path, arguments), search=search, **options), console)


@pytest.mark.slow
def test_a_published_file_and_a_program_made_of_it(tiny_run, tmp_path, capsys) -> None:
    model, program = tmp_path / "model.safetensors", tmp_path / "model.stablehlo"
    assert _run(tiny_run, model, dtype="bfloat16", beam_size=4, length_penalty=0.5) == 0
    found = published.read(model).config.search
    assert (found.beam_size, found.length_penalty, found.max_length) == (4, 0.5, 12)
    assert _run(model, program, platforms=("cpu",), max_length=6) == 0
    about = json.loads((tmp_path / "model.json").read_text())
    assert (about["search"]["beam_size"], about["search"]["max_length"]) == (4, 6)
    assert about["platforms"] == ["cpu"]
    assert about["origin"]["run"] == "model.safetensors"
    lines = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [str(model), str(program), str(tmp_path / "model.json")]


@pytest.mark.slow
def test_confidence_is_calibrated_on_prepared_data_sets(tiny_run, tiny_data, tmp_path) -> None:
    model = tmp_path / "model.safetensors"
    splits = ("shapes:dev", "shapes:test")
    assert _run(tiny_run, model, calibrate=splits, data_dir=tiny_data) == 0
    captioner = load(model)
    assert captioner.calibration is not None
    source = load_source("shapes", "dev", tiny_data)
    results = list(captioner.caption(source[number]["image"] for number in range(len(source))))
    # Familiarity is a rank among the first data set's photographs.
    ranks = sorted(result.familiarity for result in results)
    np.testing.assert_allclose(ranks, np.linspace(0, 1, len(results)), atol=0.03)
    assert all(0 < result.captions[0].confidence < 1 for result in results)
    with pytest.raises(InputError, match=r"--calibrate shapes: expected NAME:SPLIT"):
        _run(tiny_run, tmp_path / "other.safetensors", calibrate=("shapes",), data_dir=tiny_data)
    with pytest.raises(InputError, match=r"--calibrate is for \.safetensors only"):
        _run(tiny_run, tmp_path / "model.stablehlo", calibrate=splits)


def test_the_mean_of_two_runs(tiny_run, tmp_path) -> None:
    one, mean = tmp_path / "one.safetensors", tmp_path / "mean.safetensors"
    assert _run(tiny_run, one) == 0
    assert _run(tiny_run, mean, average_with=(one, tiny_run)) == 0
    for found, expected in zip(
        *(jax.tree.leaves(published.read(path).variables) for path in (mean, one)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(InputError, match="no such run directory"):
        _run(tiny_run, tmp_path / "other.safetensors", average_with=(tmp_path / "absent",))


def test_existing_files_are_kept(tiny_run, tmp_path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_text("old")
    with pytest.raises(InputError, match=r"model\.safetensors: the file exists; --force"):
        _run(tiny_run, model)
    assert model.read_text() == "old"
    assert _run(tiny_run, model, force=True) == 0
    assert published.read(model).step > 0
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match=r"model\.json: the file exists; --force"):
        _run(tiny_run, tmp_path / "model.stablehlo")
    assert not (tmp_path / "model.stablehlo").exists()


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("model.bin", {}, r"model\.bin: unknown format"),
        ("no/model.stablehlo", {}, r"there is no folder .*no; create it first"),
        (".", {"format": "safetensors"}, "this is a folder; give the name of a file"),
        ("model.json", {"format": "stablehlo"}, "the program's description gets this name"),
        ("model.safetensors", {"attention": True}, "--attention is for .stablehlo only"),
        ("model.stablehlo", {"platforms": ()}, "--platforms is empty"),
        ("model.safetensors", {"beam_size": 0}, "beam size 0"),
    ],
)
def test_faulty_options_are_refused(tiny_run, tmp_path, file, options, message) -> None:
    with pytest.raises(InputError, match=message):
        _run(tiny_run, tmp_path / file, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_run_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="nothing: no such run directory"):
        _run(tmp_path / "nothing", tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_jaxcap_command_has_export(tmp_path) -> None:
    command = [sys.executable, "-c", "from jaxcap.commands.cli import main; main()", "export"]
    arguments = [str(tmp_path / "run"), str(tmp_path / "x.safetensors")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such run directory" in done.stderr
