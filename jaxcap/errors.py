"""The one error a user is meant to see.

Everything that is the user's to mend (a file, an option, a data set) is raised as an
`InputError` whose message names the file or option, what was found, what was expected and
the way out. The command lines print that message and stop; anything else is a bug and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, and what to do."""


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Returns `" Did you mean 'x'?"` for the known name nearest to `found`, or `""`."""
    near = difflib.get_close_matches(found, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
