"""One file for each command: its options, and what it does with them.

Each has a frozen dataclass of arguments, which is its help as well, and
`run(arguments, console) -> exit status`. Results go to standard output, messages to `console`.
`jaxcap.cli` parses, calls, and turns errors into messages.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def given(**options: object) -> dict[str, object]:
    """The options that were given: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def print_scores(console: Console, scores: dict[str, float], title: str) -> None:
    """One row of scores under their names."""
    table = Table(title=title, title_justify="left")
    for name in scores:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.1f}" for value in scores.values()))
    console.print(table)
