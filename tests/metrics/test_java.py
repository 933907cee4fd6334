"""METEOR by its real program, and what is said where a program, or part of it, is missing."""

from __future__ import annotations

import importlib.util
import math
import os
import types
from pathlib import Path

import pytest
from coco_caption import corenlp

from jaxcap.metrics import Measured, Unavailable, java_scores

pytestmark = pytest.mark.slow

CANDIDATES = {"x": "The dog runs.", "y": "", "z": "a café"}
REFERENCES = {"x": ["A dog runs!", "a brown dog runs fast"], "y": ["a dog"], "z": ["a café, x"]}


def reason(result: Measured | Unavailable) -> str:
    assert isinstance(result, Unavailable)
    return result.reason


def program(folder: Path, script: str) -> None:
    """A `java` that does what a shell script says; `$answered` is SPICE's output file."""
    path = folder / "java"
    path.write_text(
        f'#!/bin/sh\nfor a; do test "$last" = -out && answered=$a; last=$a; done\n{script}\n'
    )
    path.chmod(0o755)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pycocoevalcap of empty jars, and a PATH with room for a `java` in `bin`."""
    for name in (
        "meteor/meteor-1.5.jar",
        "meteor/data/paraphrase-en.gz",
        "spice/spice-1.0.jar",
        "spice/lib/stanford-corenlp-3.6.0.jar",
        "spice/lib/stanford-corenlp-3.6.0-models.jar",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_meteor_equals_pycocoevalcap() -> None:
    corenlp()
    result = java_scores(CANDIDATES, REFERENCES, names=["METEOR"])["METEOR"]
    assert isinstance(result, Measured)
    # What pycocoevalcap.meteor.Meteor().compute_score gives for the same tokens.
    assert list(result.per_image) == ["x", "y", "z"]
    assert result.per_image["x"] == pytest.approx(40.9431138876279, abs=1e-9)
    assert result.per_image["y"] == 0.0
    # The aggregate of the counts, which is not the mean of the images.
    assert result.corpus == pytest.approx(28.181101004266995, abs=1e-9)
    assert result.corpus != pytest.approx(sum(result.per_image.values()) / 3, abs=0.1)


def test_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    results = java_scores(CANDIDATES, REFERENCES)
    assert list(results) == ["METEOR", "SPICE"]
    for name, result in results.items():
        assert reason(result).startswith(f"{name} needs Java")
        assert "default-jre-headless" in reason(result)


def test_without_the_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(package / "bin", "exit 0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = java_scores(CANDIDATES, REFERENCES)["METEOR"]
    assert "pip install 'jaxcap[java]'" in reason(result)


def test_without_spices_models(package: Path) -> None:
    program(package / "bin", "exit 0")
    (package / "spice/lib/stanford-corenlp-3.6.0-models.jar").unlink()
    result = java_scores(CANDIDATES, REFERENCES, names=["SPICE"])["SPICE"]
    assert "needs stanford-corenlp-3.6.0-models.jar" in reason(result)
    assert "get_stanford_models" in reason(result)


def test_with_part_of_the_package_missing(package: Path) -> None:
    program(package / "bin", "exit 0")
    (package / "meteor/data/paraphrase-en.gz").unlink()
    result = java_scores(CANDIDATES, REFERENCES, names=["METEOR"])["METEOR"]
    assert "force-reinstall" in reason(result)


@pytest.mark.parametrize("name", ["METEOR", "SPICE"])
def test_a_program_that_dies(package: Path, name: str) -> None:
    program(package / "bin", "echo Not enough memory >&2; exit 3")
    result = java_scores(CANDIDATES, REFERENCES, names=[name])[name]
    assert reason(result) == f"{name} stopped early, with status 3: Not enough memory"


@pytest.mark.parametrize("name", ["METEOR", "SPICE"])
def test_a_program_that_hangs_is_stopped(package: Path, name: str) -> None:
    program(package / "bin", "exec sleep 60")
    result = java_scores(CANDIDATES, REFERENCES, names=[name], timeout=0.2)[name]
    assert reason(result).startswith(f"{name} was stopped after 0")


def test_a_program_that_talks_nonsense(package: Path) -> None:
    program(package / "bin", "while read line; do echo 0,5; echo 0,5; done")
    results = java_scores(CANDIDATES, REFERENCES)
    assert "something other than numbers" in reason(results["METEOR"])
    assert "no readable scores" in reason(results["SPICE"])


def test_spices_answer_is_read(package: Path) -> None:
    score = '{"image_id": %d, "scores": {"All": {"pr": 0, "re": 0, "f": %s}}}'
    answer = ", ".join(score % pair for pair in [(2, "0.5"), (0, "0.25"), (1, "0.0")])
    program(package / "bin", f"echo '[{answer}]' > $answered")
    result = java_scores(CANDIDATES, REFERENCES, names=["SPICE"])["SPICE"]
    assert result == Measured(corpus=25.0, per_image={"x": 25.0, "y": 0.0, "z": 50.0})

    answer = ", ".join(score % pair for pair in [(2, "0.5"), (0, "NaN"), (1, "0.0")])
    program(package / "bin", f"echo '[{answer}]' > $answered")
    result = java_scores(CANDIDATES, REFERENCES, names=["SPICE"])["SPICE"]
    assert isinstance(result, Measured)
    assert math.isnan(result.corpus)
