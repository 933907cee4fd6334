"""Read a chapter of the tour, and run it with the solutions of its exercises."""

from __future__ import annotations

import os
import re
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

TOUR = Path(__file__).parents[2] / "docs" / "tour"
CHAPTERS = sorted(TOUR.glob("[01]*.md"))
SOLUTIONS = Path(__file__).parent / "solutions"
LONG_TRAININGS = ("09_overfit", "10_rewards")
MANY_DEVICES = ("11_devices",)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def checks(chapter: Path) -> list[str]:
    """Return the checks of a chapter's exercises: the Python blocks after `## Exercises`."""
    _, _, exercises = chapter.read_text("utf-8").partition("\n## Exercises\n")
    return re.findall(r"^```python\n(.*?)^```", exercises, re.MULTILINE | re.DOTALL)


def solutions(chapter: Path) -> list[str]:
    """Return the solutions of a chapter's exercises, in their order."""
    return [cell.source for cell in code(jupytext.read(SOLUTIONS / chapter.name))]


def run(chapter: Path) -> NotebookNode:
    """Run a chapter, then each solution with its check; return the chapter with its outputs."""
    notebook = jupytext.read(chapter)
    length = len(notebook.cells)
    for solution, check in zip(solutions(chapter), checks(chapter), strict=True):
        notebook.cells += [new_code_cell(solution), new_code_cell(check)]
    env = dict(os.environ)
    if chapter.stem in LONG_TRAININGS:
        # The tests compile without optimisation, but training would take longer than that saves.
        env.pop("XLA_FLAGS", None)
    if chapter.stem in MANY_DEVICES:
        # XLA runs a cached program's sums over CPU devices in any order, and they block each other.
        env["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    # Other tests share the cache of programs and may be writing an entry, which is then compiled.
    ignored = ",".join(f"ignore:Error {do} persistent compilation" for do in ("reading", "writing"))
    env |= {"PYTHONWARNINGS": ignored, "JAX_PLATFORMS": "cpu", "MPLBACKEND": ""}
    env["TF_CPP_MIN_LOG_LEVEL"] = "3"  # XLA complains of slow compilation on a busy machine
    client = NotebookClient(
        notebook,
        timeout=900,  # seconds, a cell: far above any that does not hang
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(TOUR)}},
    )
    client.execute(env=env)
    nbformat.validate(notebook)
    notebook.cells = notebook.cells[:length]
    return notebook
