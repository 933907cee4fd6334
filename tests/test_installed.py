"""A newcomer's journey with the wheel alone, in a folder without the checkout."""

from __future__ import annotations

import ast
import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from forked_commands import serving
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COLOURS = ["red", "green", "blue", "teal", "gold", "pink", "gray", "navy", "plum", "cyan"]


@dataclasses.dataclass(frozen=True)
class Newcomer:
    """Somebody who has installed the wheel.

    Attributes:
      home: the folder that commands run in.
      environment: the variables that their commands see.
      command: the beginning of a `jaxcap` command.
    """

    home: Path
    environment: Mapping[str, str]
    command: Sequence[str]

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `jaxcap` and check its exit status."""
        return self._run(*self.command, *arguments, status=status)

    def python(self, *arguments: str) -> str:
        """Run Python and return what it prints."""
        return self._run(sys.executable, *arguments, status=0).stdout

    def _run(self, *arguments: str, status: int) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            arguments,
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", ROOT]
    subprocess.run([*pip, *wheels], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    target = folder / "packages"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


@pytest.fixture(scope="module")
def newcomer(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """A newcomer with thirty pictures and a table of their captions."""
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    with (home / "photos" / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for i, colour in enumerate(COLOURS * 3):
            Image.new("RGB", (40, 30), colour).save(home / "photos" / f"{i:02}.png")
            split = "train" if i < 20 else "dev" if i < 25 else "test"
            table.writerow([f"{i:02}.png", f"A {colour} poster of a zebra.", split])
    environment = os.environ | {
        "HOME": str(home),
        "PYTHONPATH": str(installed),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "TFDS_DATA_DIR": str(home / "data"),
    }
    with serving(environment) as command:
        yield Newcomer(home, environment, command)


def test_every_file_of_the_package_is_in_the_wheel(installed: Path) -> None:
    """All but Python's caches: also the model, the pages' styles and scripts, and `py.typed`."""
    package = ROOT / "jaxcap"
    files = [
        path.relative_to(package)
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert Path("pretrained/captioner.safetensors") in files
    assert not [path for path in files if not (installed / "jaxcap" / path).is_file()]


def test_the_configurations_are_in_the_package(newcomer: Newcomer) -> None:
    jaxcap = newcomer.run
    names = [line.split("\t")[0] for line in jaxcap("configs").stdout.splitlines()]
    assert names == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    assert (
        newcomer.python("-m", "jaxcap", "configs", "shapes")
        == (ROOT / "configs" / "shapes.py").read_text()
    )
    missing = jaxcap("train", "shape", status=2).stderr
    assert "Did you mean 'shapes'?" in missing


def test_no_message_names_a_file_of_the_checkout(installed: Path) -> None:
    """Texts that a user sees: all but the docstrings of modules and functions."""
    of_checkout = re.compile(r"\b(docs|configs|examples|benchmarks|tests)/|\b(train|evaluate)\.py")
    found = []
    for path in (installed / "jaxcap").rglob("*.py"):
        if path.parent.name == "configs":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in docstrings and of_checkout.search(text):
                found.append(f"{path.name}:{node.lineno}: {text}")
    assert not found


def test_from_photographs_to_a_model_of_ones_own(newcomer: Newcomer) -> None:
    jaxcap = newcomer.run
    # Caption, in every format.
    for suffix in ("txt", "jsonl", "csv", "json"):
        jaxcap("caption", "photos/00.png", "--output", f"captions.{suffix}", "--beam-size", "1")
    refused = jaxcap("caption", "photos", "--output", "captions.csv", "--beam-size", "2", status=2)
    assert "search.beam_size: 1, 2" in refused.stderr

    # Prepare and inspect.
    jaxcap("prepare", "folder", "--source", "photos", "--name", "posters")
    assert "zebra" in jaxcap("data", "posters", "--json").stdout
    test = jaxcap("data", "posters", "--list", "test").stdout.split()
    assert test == [f"{i}.png" for i in range(25, 30)]

    # Judge the model in the package, in two ways.
    judged = jaxcap("evaluate", "--data", "posters", "--split", "test", "--beam-size", "1")
    results = "evaluations/captioner/{}-posters-test"
    assert results.format("report") + ".html" in judged.stderr
    predictions = results.format("predictions") + ".json"
    scores = jaxcap("score", predictions, "posters:test", "--json").stdout
    assert json.loads(scores)["scores"]["CIDEr-D"] < 100

    # Fine-tune it: the new words become captions.
    options = ["--train.epochs", "4", "--train.learning-rate", "2e-3", "--train.batch-size", "10"]
    tuned = jaxcap("finetune", "--data", "posters", *options)
    table = next(line for line in tuned.stderr.splitlines() if "│ CIDEr-D" in line)
    before, after = (float(cell) for cell in table.split("│")[2:4])
    assert before < after
    assert "jaxcap caption PHOTO.jpg --model runs/posters" in tuned.stderr
    # The recogniser, which sees no zebra there, does not help.
    assert (
        "no better with search.no_repeated_content and search.unrecognised_penalty" in tuned.stderr
    )
    assert "zebra" in jaxcap("caption", "photos/25.png", "--model", "runs/posters").stdout

    # Judge it, compare, and pass it on.
    jaxcap("evaluate", "runs/posters", "--split", "test")
    better = "runs/posters/predictions-test.json"
    compared = jaxcap("score", better, "posters:test", "--against", predictions).stdout
    (line,) = [x for x in compared.splitlines() if x.startswith("difference\tCIDEr-D")]
    assert float(line.split("\t")[2]) > 0
    jaxcap("export", "runs/posters", "posters.safetensors")
    exported = jaxcap("caption", "photos/25.png", "--model", "posters.safetensors").stdout
    assert exported == jaxcap("caption", "photos/25.png", "--model", "runs/posters").stdout


def test_a_copy_of_a_configuration_is_trained(newcomer: Newcomer) -> None:
    jaxcap = newcomer.run
    (newcomer.home / "mine.py").write_text(jaxcap("configs", "shapes").stdout)
    jaxcap("prepare", "folder", "--source", "photos", "--name", "posters")
    options = ["--data.name", "posters", "--train.epochs", "1", "--train.batch-size", "10"]
    options += ["--evaluation.metric", "CIDEr-D"]
    trained = jaxcap("train", "mine.py", *options)
    assert "best checkpoint, step 2" in trained.stderr
    assert "jaxcap evaluate runs/mine --split dev" in trained.stderr
    resumed = jaxcap("train", "mine.py", *options)
    assert "Resuming from step 2" in resumed.stderr


def test_one_line_of_python_in_a_notebook(newcomer: Newcomer) -> None:
    pytest.importorskip("IPython")
    script = """
from IPython.core.interactiveshell import InteractiveShell
import jaxcap
print(jaxcap.caption("photos/00.png"))
(result,) = jaxcap.load().caption("photos/00.png")
shown, _ = InteractiveShell.instance().display_formatter.format(result)
print(shown["text/html"].count("<img "), len(result.captions[0].words))
"""
    caption, counts = newcomer.python("-c", script).splitlines()
    assert newcomer.run("caption", "photos/00.png").stdout == f"photos/00.png\t{caption}\n"
    pictures, words = map(int, counts.split())
    assert pictures == words + 1 == len(caption.split()) + 1


def test_a_page_of_any_images(newcomer: Newcomer) -> None:
    (newcomer.home / "bad.jpg").write_bytes(b"no image")
    given = ["photos/00.png", "bad.jpg", "--beam-size", "1", "--output", "page.html"]
    assert (
        "1 of 2 images could not be captioned" in newcomer.run("caption", *given, status=1).stderr
    )
    page = (newcomer.home / "page.html").read_text("utf-8")
    for part in ("photos/00.png", "cannot read", '"attention":', "const attention ="):
        assert part in page
