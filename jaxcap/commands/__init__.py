"""One file per command: its options and what it does.

Each has a frozen dataclass of arguments, whose docstrings are the help, and a function
`run(arguments, console) -> exit status`. Results go to standard output, messages to `console`.
`jaxcap.cli` parses arguments and turns errors into messages.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def print_scores(console: Console, scores: dict[str, float], title: str) -> None:
    """Print scores as a table with one row."""
    table = Table(title=title, title_justify="left")
    for name in scores:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.1f}" for value in scores.values()))
    console.print(table)
