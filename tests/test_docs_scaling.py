"""The scripts of docs/scaling.md run, where their packages are installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import yaml

from jaxcap.captioning.loaded_model import load
from jaxcap.datasets.prepare import find_dataset, load_source

sys.path.append(str(Path(__file__).parent / "batch"))
from tiny import jpeg, write_model

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
DEADLINE = 900
"""Seconds for a script. It takes ten to twenty on idle processors."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def script(name: str) -> str:
    (text,) = [block for block in blocks("python") if block.startswith(f"# {name}\n")]
    return text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the page: a model, four photographs, and a table of captions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    command = tmp_path / "bin" / "jaxcap"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m jaxcap "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    write_model(tmp_path / "model.safetensors")
    (tmp_path / "photographs").mkdir()
    rows = ["image,caption"]
    for number in range(4):
        (tmp_path / "photographs" / f"{number}.jpg").write_bytes(jpeg(number))
        rows.append(f"{number}.jpg,Picture {number}.")
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    return tmp_path


def run(*command: str, **environment: str) -> str:
    """Run a program; return its standard output."""
    done = subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def expected(folder: Path, **search: Any) -> dict[str, str]:
    """Return the caption of each photograph by the name of its file."""
    paths = sorted((folder / "photographs").iterdir())
    results = load(folder / "model.safetensors").with_search(**search).caption(paths)
    return {Path(each.name).name: each.captions[0].text for each in results}


def captions(folder: Path) -> dict[str, str]:
    """Return the captions in the Parquet files of the folder `captions`."""
    rows = ds.dataset(folder / "captions", format="parquet").to_table().to_pylist()
    assert all(row["error"] is None for row in rows)
    return {Path(row["path"]).name: row["caption"] for row in rows}


@pytest.mark.slow
def test_columns(folder: Path) -> None:
    printed = run(sys.executable, "-c", script("columns.py"))
    assert printed == f"7 {expected(folder, beam_size=5)['0.jpg']}\n"


@pytest.mark.slow
def test_ray(folder: Path) -> None:
    pytest.importorskip("ray.data")
    # The reader needs a processor beside the actors, which the page leaves it.
    cluster = "import ray_cluster; ray_cluster.start()\n"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "batch")])
    run(sys.executable, "-c", cluster + script("with_ray.py"), PYTHONPATH=path)
    assert captions(folder) == expected(folder)


@pytest.mark.slow
def test_spark(folder: Path) -> None:
    pytest.importorskip("pandas")
    if importlib.util.find_spec("pyspark") is None:
        pytest.skip("pyspark is not installed")
    environment = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    run(sys.executable, "-c", script("with_spark.py"), **environment)
    assert captions(folder) == expected(folder)


@pytest.mark.slow
def test_beam(folder: Path) -> None:
    if importlib.util.find_spec("apache_beam") is None:
        pytest.skip("apache_beam is not installed")
    (folder / "with_beam.py").write_text(script("with_beam.py"))
    run(sys.executable, "with_beam.py")
    lines = (folder / "captions.tsv").read_text().splitlines()
    found = {Path(name).name: text for name, text in (line.split("\t") for line in lines)}
    assert found == expected(folder)


def _array(script: str) -> None:
    """Run a batch script once for each of its tasks, as Slurm does."""
    (count,) = re.findall(r"^#SBATCH --array=1-(\d+)$", script, re.MULTILINE)
    for task in range(1, int(count) + 1):
        variables = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": count}
        run("bash", "-ec", script, **variables)


def _then(contains: str) -> None:
    """Run the indented command of the page that contains a text."""
    (command,) = [
        line for line in PAGE.splitlines() if line.startswith("    jaxcap ") and contains in line
    ]
    run("bash", "-ec", command)


@pytest.mark.slow
def test_arrays_of_jobs(folder: Path) -> None:
    caption, prepare = (block for block in blocks("bash") if "#SBATCH" in block)
    _array(caption)
    _then("caption --join")
    lines = map(json.loads, Path("captions.jsonl").read_text().splitlines())
    found = {Path(line["image"]).name: line["captions"][0]["caption"] for line in lines}
    assert found == expected(folder)
    _array(prepare)
    _then("prepare folder")
    splits = find_dataset("mine", Path("data")).splits
    found = [record["image_id"] for s in splits for record in load_source("mine", s, Path("data"))]
    assert sorted(found) == [f"{number}.jpg" for number in range(4)]


def test_launchers_connect_the_processes_that_they_start() -> None:
    """The variables on the page are those that `jaxcap.devices.hosts` reads."""
    job, jobset, sky = map(yaml.safe_load, blocks("yaml"))
    assert job["spec"]["runtimeRef"]["name"] == "jax-distributed"
    (replicated,) = jobset["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    first = f"{jobset['metadata']['name']}-{replicated['name']}-0-0"
    assert variables == {
        "JAX_COORDINATOR_ADDRESS": f"{first}.{jobset['metadata']['name']}:8476",
        "JAX_NUM_PROCESSES": str(spec["completions"]),
        "JAX_PROCESS_ID": None,  # from the pod's index
    }
    assert spec["completions"] == spec["parallelism"]
    exports = sky["run"].partition("jaxcap train")[0]
    program = f"{exports}\necho $JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID"
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"}
    for rank in ("0", "1"):
        printed = run("bash", "-ec", program, SKYPILOT_NODE_RANK=rank, **nodes)
        assert printed == f"10.0.0.1:8476 2 {rank}\n"
