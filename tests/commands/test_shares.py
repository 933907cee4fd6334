"""`jaxcap caption` and `evaluate.py` in several processes: shares, without double work."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxcap.caption_files.output_formats import FORMATS
from jaxcap.caption_files.writing import read_entries
from jaxcap.captioning import loaded_model
from jaxcap.commands import caption, evaluate
from jaxcap.devices.hosts import launched_share
from jaxcap.messages.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "3"}, (1, 3)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "8"}, (2, 4)),
        # A batch script that srun did not start.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, (0, 2)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, None),
    ],
)
def test_launchers_number_the_processes(
    environment: dict[str, str], expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched_share() == expected


@pytest.mark.parametrize(("number", "message"), [("2", "JAX_PROCESS_ID is 2"), ("x", "is 'x'")])
def test_a_process_number_out_of_range_is_refused(
    number: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", number)
    with pytest.raises(InputError, match=message):
        launched_share()


def test_each_process_captions_one_part(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loaded_model.load(tiny_run)
    monkeypatch.setattr(loaded_model, "load", lambda *paths, **options: run)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = [f"IMG_{n:04}.png" for n in range(6, 13)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(name)
    arguments = caption.CaptionArguments(
        tuple(map(Path, names)), (tiny_run,), output=Path("all.jsonl"), batch_size=4
    )
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    parts = []
    for process in range(2):
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", str(process))
        console = Console(file=io.StringIO(), width=200)
        assert caption.run(arguments, console) == 0
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        own = f"all.{process + 1}-of-2.jsonl"
        assert f"Process {process + 1} of 2 captions its part into {own}" in printed
        assert ("--join 'all.*-of-2.jsonl' --output all.jsonl" in printed) == (process == 0)
        parts.append([key for key, _ in read_entries(Path(own), FORMATS["jsonl"](words=False))])
    assert all(parts)
    assert sorted(parts[0] + parts[1]) == names  # each once

    with pytest.raises(InputError, match="cannot share a list on standard input"):
        caption.run(caption.CaptionArguments((Path("-"),), (tiny_run,)), console)


def test_joining_names_an_unfinished_entry_and_refuses_a_damaged_part(tmp_path: Path) -> None:
    head, whole = "image,caption,log_prob,confidence\n", "a.jpg,a dog,-2.0000,0.5000\n"
    first, second, output = (tmp_path / name for name in ("1.csv", "2.csv", "all.csv"))
    arguments = caption.CaptionArguments((first, second), output=output, join=True)
    first.write_text(head + whole)
    second.write_text(head + "b.jpg,a ca")
    console = Console(file=io.StringIO(), width=200)
    assert caption.run(arguments, console) == 0
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{second}: an interrupted write left 'b.jpg,a ca' at the end; it is left out" in printed
    assert output.read_text() == head + whole
    second.write_text(head + 'b.jpg,"a 5 pipe,-2,1\nc.jpg,a cow,-3,1\n')
    with pytest.raises(InputError, match=r"2\.csv, line 2: found"):
        caption.run(arguments, console)


@pytest.mark.slow
def test_two_processes_evaluate_as_one(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    def files(of: Path) -> tuple[object, object, object]:
        metrics = json.loads((of / "metrics-test.json").read_text())
        del metrics["protocol"]["command"]
        page = (of / "report-test.html").read_text(encoding="utf-8")
        rows = json.loads(page.split('id="rows">')[1].split("</script>")[0])
        return json.loads((of / "predictions-test.json").read_text()), metrics, rows

    one, two = (shutil.copytree(tiny_run, tmp_path / n / tiny_run.name) for n in ("one", "two"))
    quiet = Console(quiet=True)
    assert (
        evaluate.run(evaluate.EvaluateArguments(one, split="test", data_dir=tiny_data), quiet) == 0
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "evaluate.py"), str(two), "--split", "test"],
            env=os.environ
            | {
                "TFDS_DATA_DIR": str(tiny_data),
                "JAX_NUM_CPU_DEVICES": "2",
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(process),
                "XDG_CACHE_HOME": str(tmp_path),
                "PYTHONPATH": str(ROOT),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    first, second = (process.communicate(timeout=300)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0], first + second
    assert "report-test.html" in first
    assert "wrote" not in second  # the first one speaks
    (words, scores, rows), (expected, expected_scores, expected_rows) = files(two), files(one)
    assert words == expected
    assert scores == expected_scores
    assert any(row.get("attention") for row in rows)  # type: ignore[attr-defined]
    assert [{**row, "captions": 0, "words": 0} for row in rows] == [  # type: ignore[attr-defined]
        {**row, "captions": 0, "words": 0}
        for row in expected_rows  # type: ignore[attr-defined]
    ]


def test_an_unwritable_folder_is_refused_before_the_work(
    tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "evaluate_split", lambda *_: pytest.fail("captioned"))
    monkeypatch.setattr(os, "access", lambda path, mode: path != tiny_run)
    arguments = evaluate.EvaluateArguments(tiny_run, data_dir=tiny_data)
    with pytest.raises(InputError, match="cannot write the results to this folder"):
        evaluate.run(arguments, Console(quiet=True))


def test_a_folder_in_place_of_a_result_is_refused_before_the_work(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "evaluate_split", lambda *_: pytest.fail("captioned"))
    (tmp_path / "report-dev.html").mkdir()
    arguments = evaluate.EvaluateArguments(tiny_run, data_dir=tiny_data, output=tmp_path)
    with pytest.raises(InputError, match=r"report-dev\.html: this is a folder"):
        evaluate.run(arguments, Console(quiet=True))
