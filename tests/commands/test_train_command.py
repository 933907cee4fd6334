"""The arguments of `jaxcap train`: configurations by name, and options that a stage overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxcap.commands.train import parse
from jaxcap.config import load_config_file
from jaxcap.messages.errors import InputError


@pytest.mark.slow
def test_a_configuration_is_found_by_its_name() -> None:
    arguments = parse(["show_and_tell", "--train.epochs", "2"])
    assert arguments.workdir == Path("runs/show_and_tell")
    assert arguments.config.train.epochs == 2
    assert arguments.config.encoder == load_config_file("show_and_tell").encoder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            ["--train.learning-rate", "0.1"],
            r"--train\.learning-rate: the stages of flickr8k_best override train\.learning_rate: "
            r"stages\[0\] sets it to 0\.001, stages\[1\] sets it to 0\.0006\. Change it there: "
            r"jaxcap configs flickr8k_best > mine\.py, then edit the stages in mine\.py",
        ),
        (
            ["--train.epochs=3"],
            r"train\.epochs: stages\[0\] sets it to 2, stages\[1\] sets it to 8",
        ),
        (["--encoder.no-trainable"], r"encoder\.trainable: stages\[1\] sets it to True"),
    ],
)
def test_an_option_that_a_stage_would_override_is_refused(option: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(["flickr8k_best", *option])


@pytest.mark.slow
def test_the_stages_of_ones_own_file_are_edited_there(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("from jaxcap.config import *\nCONFIG = Config(stages=(Stage(3),))\n")
    with pytest.raises(InputError, match=rf"Change it there: edit the stages in {path}, then"):
        parse([str(path), "--train.epochs", "2"])


@pytest.mark.slow
def test_options_that_no_stage_overrides_pass() -> None:
    arguments = parse(["flickr8k_best", "--train.batch-size", "16", "--data.no-flip"])
    assert arguments.config.train.batch_size == 16
