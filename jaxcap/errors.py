"""The error for mistakes that the user can fix.

A faulty file, option or data set raises an `InputError`. Its message names the file or option,
what was found, what was expected and the way out. The commands print that message and stop. Any
other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A user's mistake; the message says what is wrong and how to fix it."""


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known name nearest to `found`, or `""`."""
    near = difflib.get_close_matches(found, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
