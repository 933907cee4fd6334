"""The error for mistakes that the user can fix.

A faulty file, option or data set raises an `InputError`. Its message names the file or option,
what was found, what was expected and the way out. The commands print that message and stop. Any
other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")

_NEAR = 0.65
"""The least similarity of names that are suggested."""
_LONG = 300
"""Longer names are not compared, because that could take minutes."""

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


@contextlib.contextmanager
def within(place: str) -> Iterator[None]:
    """Begin the errors of the `with` block with the file or option that they are about."""
    try:
        yield
    except InputError as error:
        first, *others = error.args
        raise InputError(f"{place}: {first}", *others) from error


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


def ignore(report: object) -> None:
    """Receive a report, and do nothing."""


def did_you_mean(found: str | Path, known: Iterable[str] = ()) -> str:
    """Return `" Did you mean 'x'?"` for the known name nearest to `found`, or `""`.

    The beginning of a name, its part after a dot, or the beginning of that count as much as the
    name: "beam" is near "beam_size", and "epochs" is near "train.epochs". For a `Path`, the known
    names are the files and folders that are there.
    """
    if not isinstance(found, str):
        if len(str(found)) > _LONGEST:  # each part costs the length of the whole
            return ""
        # Only the first part that is missing can be compared.
        missing = next((p for p in (found, *found.parents) if os.path.isdir(p.parent)), found)
        beside = [] if os.path.exists(missing) else _names_in(missing.parent)
        near = _nearest(missing.name, beside)
        if near is None:
            return ""
        folder = missing.with_name(near)
        path = folder / found.relative_to(missing)
        return _suggested(str(path if os.path.exists(path) else folder))
    return _suggested(_nearest(found, known))


def _suggested(near: str | None) -> str:
    return f" Did you mean '{near}'?" if near else ""


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _nearest(found: str, known: Iterable[str]) -> str | None:
    from difflib import SequenceMatcher

    wanted = _plain(found)
    matcher = SequenceMatcher(b=wanted)

    def similarity(known: str) -> tuple[float, float, bool]:
        name = _plain(known)
        last = name.rpartition(".")[2]
        ratios = []
        for each in (name, name[: len(wanted)], last, last[: len(wanted)]):
            matcher.set_seq1(each)
            ratios.append(matcher.ratio())
        return max(ratios), ratios[0], known[:1] == found[:1]  # the case of the first letter

    names = [name for name in known if name != found and max(len(name), len(found)) <= _LONG]
    best = max(names, key=similarity, default=None)
    return best if best is not None and similarity(best)[0] >= _NEAR else None


def _plain(name: str) -> str:
    return name.lstrip("-").lower().replace("-", "_")


def known_arguments(*also: str, hint: str = "") -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator that names the nearest argument when a keyword is unknown.

    Args:
      also: further names that a user may have meant, which `hint` explains.
      hint: a sentence after the message.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        from inspect import signature  # with `difflib`, a third of what `import jaxcap` loads

        names = [*signature(function).parameters]

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            for name in kwargs.keys() - names:
                near = "" if name in also else did_you_mean(name, [*names, *also])
                raise InputError(f"{function.__name__} has no argument '{name}'.{near}{hint}")
            return function(*args, **kwargs)

        return checked

    return decorate
