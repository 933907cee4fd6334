"""The programs in `examples/` run."""

import math
import re
from pathlib import Path
from types import ModuleType

import pytest
from shared_programs import shared

import jaxcap
from jaxcap.datasets import shapes

EXAMPLES = Path(__file__).parents[1] / "examples"


def _load(name: str) -> ModuleType:
    # Importing it would leave a folder beside the photographs.
    path, module = EXAMPLES / f"{name}.py", ModuleType(name)
    exec(compile(path.read_text("utf-8"), path, "exec"), module.__dict__)
    return module


@pytest.mark.slow
def test_one_page_learns(capsys: pytest.CaptureFixture[str]) -> None:
    """It starts at a uniform guess, ln V, and soon speaks the grammar of the captions."""
    with shared(optimise_steps=True):
        _load("one_page").main(steps=80, scenes=200)
    printed = capsys.readouterr().out
    words = int(re.search(r"(\d+) words", printed)[1])
    first, last = (float(x) for x in re.findall(r"step +\d+: ([\d.]+) nats", printed))
    assert first == pytest.approx(math.log(words), abs=0.3)
    assert last < 0.5 * first
    captions = re.findall(r"^caption: (.*)  \[(?:true|wrong)\]$", printed, re.MULTILINE)
    assert len(captions) == 5
    assert all(shapes.parse(caption) for caption in captions)


@pytest.mark.slow
def test_attention_draws_the_photograph_and_a_panel_for_each_word() -> None:
    sheet = _load("attention").draw(EXAMPLES / "sheep.jpg", words=["sheep", "grass"])
    assert sheet.size == (3 * 224, 224)


@pytest.mark.slow
def test_the_readme_shows_what_the_packaged_model_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text("utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(EXAMPLES.parent)
    names: dict[str, object] = {}
    exec(compile(program, "README.md", "exec"), names)
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert f"```text\n{first}\n{second}\n{third}\n…\n```" in readme

    listed = dict(re.findall(r"^(examples/\w+\.jpg)\t(.*)$", readme, re.MULTILINE))
    assert len(listed) == len(list(EXAMPLES.glob("*.jpg")))
    results = jaxcap.load().caption(Path(name) for name in listed)
    assert {str(each.name): each.captions[0].text for each in results} == listed
