"""Messages: their lines, names and numbers."""

from __future__ import annotations

import pickle

from jaxcap.errors import InputError, counted


def test_only_the_lines_of_a_message_break_it() -> None:
    error = InputError("a\nb.jpg: damaged", "  see\tthis")
    assert str(error) == "a\\nb.jpg: damaged\n  see\\tthis"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_long_line_keeps_its_beginning_and_its_end() -> None:
    (line,) = InputError(f"a.csv: {'x' * 10**6}; rename it").args
    assert len(line) < 4000
    assert line.startswith("a.csv: xx")
    assert line.endswith("xx; rename it")


def test_one_thing_is_singular() -> None:
    assert [counted(n, "image") for n in (0, 1, 2, 1000)] == [
        "0 images", "1 image", "2 images", "1,000 images",
    ]  # fmt: skip
