"""Text from files cannot control the terminal."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

import jaxcap
from jaxcap.messages.errors import InputError
from jaxcap.messages.progress import PlainConsole, escaped, print_line, print_out
from jaxcap.storage.checkpoints import Checkpoints

HOSTILE = "a\x1b]0;title\x07\r\x9b2J\x7f\u202egnp\u2066\u200f\u061c\u2028"
SHOWN = r"a\x1b]0;title\x07\r\u009b2J\u007f\u202egnp\u2066\u200f\u061c\u2028"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_controls_and_bidirectional_marks_become_escapes() -> None:
    assert escaped(HOSTILE) == SHOWN
    assert escaped(SHOWN) == SHOWN
    controls = [chr(i) for i in range(0x3000) if escaped(chr(i)) != chr(i)]
    assert len(controls) == 32 - 2 + 1 + 32 + 3 + 2 + 5 + 4
    kept = "two\nlines\tand näïve 東京 می\u200cخواهم 👩\u200d🚀 \udcff"
    assert escaped(kept) == kept


def test_json_stays_json() -> None:
    values = {"caption": HOSTILE}
    printed = escaped(json.dumps(values, ensure_ascii=False))
    assert json.loads(printed) == values


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_prints_them_escaped(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    console = PlainConsole(stderr=True)
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    console.print(f"error: [b]{HOSTILE}", soft_wrap=True)
    console.print(Text("\u202ebuilt elsewhere"))
    print_line(console, f":dog: {HOSTILE}")
    found = stream.getvalue()
    assert found.count(SHOWN) == 5
    assert f"error: [b]{SHOWN}\n" in found
    assert r"\u202ebuilt elsewhere" in found
    assert escaped(found) == found


def test_colours_still_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    PlainConsole(stderr=True).print("error: \x1b[2J", style="red", soft_wrap=True)
    assert stream.getvalue() == "\x1b[31merror: \\x1b[2J\x1b[0m\n"


def test_a_console_of_the_caller_gets_escaped_lines() -> None:
    stream = io.StringIO()
    print_line(Console(file=stream, width=20), HOSTILE)
    assert stream.getvalue() == SHOWN + "\n"


def test_standard_output_is_escaped_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in ((Terminal(), SHOWN), (io.StringIO(), HOSTILE)):
        monkeypatch.setattr(sys, "stdout", stream)
        print_out(HOSTILE, end="")
        assert stream.getvalue() == expected


def test_warnings_of_damaged_checkpoints_are_escaped(tmp_path: Path) -> None:
    directory = tmp_path / "\u202enur"
    (directory / "1").mkdir(parents=True)
    with (
        Checkpoints(directory, metric="m", reading_only=True) as checkpoints,
        pytest.warns(UserWarning, match=r"\\u202enur/1: this checkpoint is damaged"),
        pytest.raises(InputError, match="all checkpoints are damaged"),
    ):
        checkpoints.restore_sound_variables({}, best=True)


def test_commands_print_only_escaped_text() -> None:
    """`jaxcap weights` once printed the note of a model as it was."""
    commands = Path(jaxcap.__file__).parent / "commands"
    found = {
        path.name
        for path in commands.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    }
    assert found == {"cli.py", "parsing.py"}  # version and help, which are jaxcap's own
