"""`jaxcap configs` lists and prints the configurations that come with jaxcap."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from jaxcap.commands.configs import ConfigsArguments, run
from jaxcap.messages.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ConfigsArguments(), Console(file=io.StringIO())) == 0
    lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert set(lines) == {path.stem for path in CONFIGS.glob("*.py")}
    assert lines["shapes"].startswith("Drawn scenes: ")


def test_a_copy_is_the_file_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ConfigsArguments("flickr8k"), Console(file=io.StringIO())) == 0
    assert capsys.readouterr().out == (CONFIGS / "flickr8k.py").read_text()


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(InputError, match="Did you mean 'flickr8k'"):
        run(ConfigsArguments("flicker8k"), Console(file=io.StringIO()))


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"mine\.py: this is not text in UTF-8"):
        run(ConfigsArguments(str(path)), Console(file=io.StringIO()))
