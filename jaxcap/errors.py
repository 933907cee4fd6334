"""The error for mistakes that the user can fix.

A faulty file, option or data set raises an `InputError`. Its message names the file or option,
what was found, what was expected and the way out. The commands print that message and stop. Any
other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONGEST = 4000


class InputError(ValueError):
    """A user's mistake; the message says what is wrong and how to fix it.

    Names of files may hold line breaks. In a message these are escaped, so that no name can fake a
    line.
    """

    def __init__(self, *lines: str):
        """Take the message, or each of its lines."""
        super().__init__(*map(message_line, lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


def counted(number: int, noun: str) -> str:
    """Return "1 image", or "2 images"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def one_line(text: str) -> str:
    """Write line breaks, tabs and other control characters as escapes such as `\\n`."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found[0])[1:-1], text)


def message_line(text: str) -> str:
    """Return `one_line(text)`; a very long one, such as a damaged file's, loses its middle."""
    line = one_line(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 4 :]}"


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known name nearest to `found`, or `""`."""
    near = difflib.get_close_matches(found, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def ignore(report: object) -> None:
    """Receive a report, and do nothing."""
