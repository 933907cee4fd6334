"""Read untrusted JSON: bounded in size, and of the expected types.

Python's parser returns values of any depth and any type, and code that walks, prints or compares
them then fails in a hundred places. Here, depth and size are bounded, and `from_dict` builds a
dataclass whose fields have the types of their annotations.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import reprlib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from jaxcap.files.local import read_bytes
from jaxcap.messages.errors import InputError, did_you_mean

MAX_BYTES = 1 << 24
"""The largest file of `read_json`, and the largest header of a `.safetensors` file. Its values take
up to forty times as much memory."""

MAX_DEPTH = 100
"""How deeply lists and objects may be nested."""

T = TypeVar("T")


class Repeated(dict[str, Any]):
    """A JSON object with repeated names. As a dictionary it holds the last value of each."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.pairs = pairs


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def parse_json(text: str, *, keep_repeated: bool = False) -> Any:
    """Parse JSON nested at most `MAX_DEPTH` deep.

    Args:
      keep_repeated: return objects with repeated names as `Repeated`.

    Raises:
      ValueError: the text is malformed (then it is a `json.JSONDecodeError`), is nested too
        deeply, or has a number of too many digits.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object if keep_repeated else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # the limit of Python's int
        raise ValueError("a number has too many digits") from None
    # Most texts have too few brackets to be deep, and counting them takes no time.
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    return value


_NO_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"|[^][{}"]++')
_STEPS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")


def _depth(text: str) -> int:
    """Return how deeply the lists and objects in a JSON text are nested."""
    steps = _NO_BRACKETS.sub("", text).encode().translate(_STEPS)
    return int(np.cumsum(np.frombuffer(steps, np.int8), dtype=np.int32).max(initial=0))


def read_json(path: Path, what: str, *, at_most: int = MAX_BYTES) -> Any:
    """Read a small JSON file.

    Args:
      what: the content of the file for error messages, such as "configuration".
      at_most: the largest size of the file, in bytes.

    Raises:
      InputError: the file cannot be read, is too large, or is not JSON.
    """
    data = read_bytes(path, at_most=at_most)
    try:
        return parse_json(data.decode())
    except ValueError as error:
        raise InputError(f"{path}: not a readable {what} ({error}).") from None


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 100
_short.maxdict = _short.maxlist = _short.maxtuple = 8


def shown(value: Any) -> str:
    """Return the `repr` of a value for an error message, shortened if it is long."""
    return _short.repr(value)


def from_dict(cls: type[T], values: Any, *, where: str) -> T:
    """Build a dataclass from JSON values, checking names and types.

    Args:
      cls: the dataclass; its fields may be dataclasses too.
      values: nested dictionaries; absent fields take their defaults.
      where: the file or option named in errors.

    Raises:
      InputError: a name is unknown (with the nearest known name) or missing, or a value has the
        wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected a table of options, found {shown(values)}.")
    hints = _hints(typing.cast(Any, cls))
    for name in values:
        if name not in hints:
            raise InputError(
                f"{where}: there is no option {shown(name)}.{did_you_mean(name, hints)} "
                f"Known: {', '.join(hints)}."
            )
    for field in dataclasses.fields(typing.cast(Any, cls)):
        is_required = field.default is field.default_factory is dataclasses.MISSING
        if is_required and field.name not in values:
            raise InputError(f"{where}: the option '{field.name}' is missing.")
    return cls(
        **{name: _typed(hints[name], v, where=f"{where}.{name}") for name, v in values.items()}
    )


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _typed(hint: Any, value: Any, *, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where=where)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (h for h in arguments if h is not type(None))
        return _typed(hint, value, where=where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(
                f"{where} is {shown(value)}; it must be one of {', '.join(map(repr, arguments))}."
                f"{did_you_mean(str(value), arguments)}"
            )
        return value
    if origin is tuple:
        is_any_length = arguments[-1] is Ellipsis
        if not isinstance(value, list | tuple) or not (
            is_any_length or len(value) == len(arguments)
        ):
            raise InputError(
                f"{where} is {shown(value)}; expected a list of {arguments[0].__name__}."
            )
        if arguments[0] is str and all(type(each) is str for each in value):  # a long vocabulary
            return tuple(value)
        return tuple(_typed(arguments[0], v, where=f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where} is {shown(value)}; expected a table of options.")
        return {k: _typed(arguments[1], v, where=f"{where}[{shown(k)}]") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise InputError(f"{where} is {shown(value)}, which is too large.") from None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(
            f"{where} is {shown(value)} ({type(value).__name__}); expected {hint.__name__}."
        )
    return value
