"""What a command says about its arguments, and about those that are wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from jaxcap.commands import cli
from jaxcap.commands.parsing import description, parse
from jaxcap.messages.errors import InputError


@dataclass(frozen=True)
class Arguments:
    """Do something with a file.

    It takes a while, and the line that says so is long enough to be wrapped by every terminal.

        program file.txt --kind red
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The file, which
    may be any."""
    kind: Literal["red", "green"] | None = None
    """A kind."""
    number: int | None = None
    """A number."""
    size: int = 3
    """A size."""
    rate: float = 1
    """A rate."""
    words: tuple[str, ...] = ()
    """Words."""
    quick: bool = False
    """Quickly."""


def test_options_become_arguments() -> None:
    assert parse(Arguments, "program", ["x.txt"]) == Arguments(Path("x.txt"))
    given = ["x.txt", "--kind", "red", "--number", "5", "--rate", "1e-3", "--words", "a", "b"]
    given += ["--quick"]
    assert parse(Arguments, "program", given) == Arguments(
        Path("x.txt"), "red", 5, rate=1e-3, words=("a", "b"), quick=True
    )
    default = Arguments(Path("y"), "green", 4)
    given = ["z", "--kind", "None", "--number", "None"]
    assert parse(Arguments, "program", given, default=default) == Arguments(Path("z"))


def test_help_shows_examples_and_only_defaults_that_say_something(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit, match="0"):
        parse(Arguments, "program", ["--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(description(Arguments))
    assert "\n    program file.txt --kind red\n" in shown
    for part in ("usage: program", "FILE", "--kind {red,green}", "--number INT", "(default: 3)"):
        assert part in shown
    assert "The file, which may be any." in shown
    for part in ("None", "STR", "(default: )", "False", "--no-quick"):
        assert part not in shown
    assert max(map(len, shown.splitlines())) <= 60


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["x", "--sise", "4"], "unknown option '--sise'. Did you mean '--size'? program --help"),
        (["x", "y", "--sise=4"], "unknown option '--sise'."),
        (["--sise", "x"], "unknown option '--sise'."),
        (["x", "y"], "unknown argument 'y'. program --help lists the options."),
    ],
)
def test_an_unknown_option_is_named_alone(given, message) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse(Arguments, "program", given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["x", "--kind", "gren"], "'gren' is unknown. Did you mean 'green'? Expected red, green."),
        (["x", "--number", "five"], "--number: 'five' is not a whole number."),
        (["x", "--rate", "fast"], "--rate: 'fast' is not a number."),
        (["x", "--number", "\x1b[31m\n\u202e"], r"--number: '\x1b[31m\n\u202e' is not a whole"),
        (["x", "--kind", "\x1b]0;red\a"], r"--kind: '\x1b]0;red\x07' is unknown."),
        ([], "FILE"),
    ],
)
def test_wrong_values_are_named(given, message, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="2"):
        parse(Arguments, "program", given)
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"^  (\w+) ", cli.describe_commands(), re.MULTILINE)))
)
def test_every_command_has_readable_help_with_examples(name, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["jaxcap", name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    shown = capsys.readouterr().out
    assert f"\n    jaxcap {name}" in shown
    usage, rest = shown.split("usage: ")[1].split("\n", 1)
    assert max(map(len, rest.splitlines())) <= 80, usage
    for part in ("{None}", "None|", "(default: None)", "(default: )", "PATH PATH", "STR "):
        assert part not in shown


def test_the_list_of_commands_fits_a_terminal() -> None:
    lines = cli.describe_commands().splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if line.startswith("  ")]) >= 10
