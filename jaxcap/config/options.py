"""Declarations in the fields of a configuration: bounds and scope of an option.

A field carries them in its annotation, and checks, stages and command lines read them from there:

    learning_rate: Annotated[float, Positive(1000), PerStage] = 1e-3
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import typing
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """The range of a number, or of each number in a tuple.

    Attributes:
      low, high: the ends of the range.
      open_low, open_high: whether `low` and `high` themselves are excluded.
    """

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def accept(self, value: Any) -> bool:
        """Return whether a value, or each element of a tuple, is within the bounds; None always
        is."""
        if value is None:
            return True
        if isinstance(value, tuple):
            return all(map(self.accept, value))
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return bool(above and below)

    def __str__(self) -> str:
        low = "greater than" if self.open_low else "at least"
        high = "less than" if self.open_high else "at most"
        return f"{low} {self.low:.16g} and {high} {self.high:.16g}"


def Count(high: int) -> Bounds:
    """Return the bounds of a count: 1 to `high`."""
    return Bounds(1, high)


def UpTo(high: float) -> Bounds:
    """Return the bounds of a number that may be 0."""
    return Bounds(0, high)


def Positive(high: float) -> Bounds:
    """Return the bounds of a positive number."""
    return Bounds(0, high, open_low=True)


Fraction = Bounds(0, 1)
Rate = Bounds(0, 1, open_high=True)
"""A share below 1, such as a dropout rate."""
Share = Bounds(0, 1, open_low=True)
"""A share above 0."""


@dataclass(frozen=True)
class MaxItems:
    """The largest number of elements of a tuple."""

    number: int


@dataclass(frozen=True)
class AppliesTo:
    """Limits an option to certain values of another option in its section."""

    option: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Flag:
    """The name by which users give one element of a tuple, such as `--ban WORD`."""

    name: str


@dataclass(frozen=True)
class Marker:
    """A property that a field has or lacks."""

    name: str


PerStage = Marker("PerStage")
"""A stage of a run may change the option."""
Operational = Marker("Operational")
"""The option does not define the experiment: it may change when a run is resumed."""


@dataclass(frozen=True)
class Option:
    """One field of a configuration section with all that it declares.

    Attributes:
      hint: the type, without metadata.
      default: the field's default.
      bounds: the range of its value, or None.
      max_items: its largest number of elements, or None.
      applies_to: where it has an effect; None: everywhere.
      markers: `PerStage`, `Operational`.
      flag: the name by which users give it; that of an element for some tuples.
    """

    name: str
    hint: Any
    default: Any
    bounds: Bounds | None
    max_items: int | None
    applies_to: AppliesTo | None
    markers: frozenset[Marker]
    flag: str


def options_of(section: type) -> dict[str, Option]:
    """Return the options of a section, by name, in the order of its fields."""
    hints = typing.get_type_hints(section)
    declared = typing.get_type_hints(section, include_extras=True)
    options = {}
    for field in dataclasses.fields(section):
        metadata = getattr(declared[field.name], "__metadata__", ())
        options[field.name] = Option(
            field.name,
            hints[field.name],
            field.default,
            next((each for each in metadata if isinstance(each, Bounds)), None),
            next((each.number for each in metadata if isinstance(each, MaxItems)), None),
            next((each for each in metadata if isinstance(each, AppliesTo)), None),
            frozenset(each for each in metadata if isinstance(each, Marker)),
            next((each.name for each in metadata if isinstance(each, Flag)), field.name),
        )
    return options


def field_docstrings(section: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass, each on one line.

    Python drops these strings, so they are read from the source; without a source there are none.
    """
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    except OSError:
        return {}
    assert isinstance(definition, ast.ClassDef)
    docstrings = {}
    for field, below in itertools.pairwise(definition.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            docstrings[field.target.id] = " ".join(str(below.value.value).split())
    return docstrings
