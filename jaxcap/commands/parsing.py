"""Parse the arguments of a command, with help and messages in a user's terms.

The docstring of a command's arguments is the description above its help; indented lines are
examples. tyro shows types as Python knows them and every default. Here, an option that may be left
out shows only the value that it takes, and no default such as None.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import shutil
import textwrap
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
    UnsupportedTypeAnnotationError,
)

from jaxcap.messages.errors import InputError, did_you_mean, message_line
from jaxcap.messages.progress import escaped

T = TypeVar("T")

_REGISTRY = ConstructorRegistry()
_Spec = PrimitiveConstructorSpec[Any] | UnsupportedTypeAnnotationError | None
_MAX_WIDTH = 80


def parse(arguments: type[T], program: str, given: Sequence[str], *, default: T | None = None) -> T:
    """Parse the arguments of a command; `--help` prints them and exits.

    Args:
      program: the words before the arguments, such as "jaxcap caption".
      default: an instance with the defaults; None: those of the class.

    Raises:
      InputError: an option is unknown; the message names the nearest one.
    """
    lists = f"{program} --help lists the options."
    # First: tyro would take the value of an unknown option for an argument.
    options = itertools.takewhile(lambda each: each != "--", given)
    named = [each.partition("=")[0] for each in options if each.startswith("--")]
    known = _options(arguments, default) if named else []
    for each in named:
        if each.replace("_", "-") not in known:
            group, dot, name = each.rpartition(".")
            beside = [option for option in known if dot and option.startswith(group + dot)]
            near = did_you_mean(name, beside) or did_you_mean(name if beside else each, known)
            raise InputError(f"unknown option '{each}'.{near} {lists}")
    parsed, unknown = parse_known(arguments, program, given, default=default)
    if unknown:
        raise InputError(f"unknown argument '{unknown[0]}'. {lists}")
    return parsed


def parse_known(
    arguments: type[T], program: str, given: Sequence[str], *, default: T | None = None
) -> tuple[T, list[str]]:
    """Parse like `parse`, and also return the arguments that are not this command's."""
    if {"-h", "--help"} & set(given):
        print(f"{description(arguments)}\n")
    return tyro.cli(
        arguments,
        prog=program,
        description="",
        args=given,
        default=tyro.MISSING_NONPROP if default is None else default,
        return_unknown_args=True,
        registry=_REGISTRY,
        # The defaults of a configuration may be on: then an option may also turn them off.
        config=[tyro.conf.FlagCreatePairsOff] if default is None else [],
    )


def description(arguments: type) -> str:
    """Return the docstring of a class, wrapped to the terminal except for indented lines."""
    width = min(_MAX_WIDTH, shutil.get_terminal_size().columns)
    paragraphs = inspect.cleandoc(arguments.__doc__ or "").split("\n\n")
    return "\n\n".join(
        each if each.startswith(" ") else textwrap.fill(each, width) for each in paragraphs
    )


def _options(arguments: type, default: Any) -> list[str]:
    options: dict[str, Any] = vars(
        tyro.extras.get_parser(
            arguments,
            default=tyro.MISSING_NONPROP if default is None else default,
            registry=_REGISTRY,
        )
    )["_option_string_actions"]
    return list(options)


def _quoted(given: str) -> str:
    """Quote an argument for a message that tyro prints as it is."""
    return f"'{escaped(message_line(given))}'"


@_REGISTRY.primitive_rule
def _text(info: PrimitiveTypeInfo) -> _Spec:
    if info.type is not str:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="TEXT",
        instance_from_str=lambda strings: strings[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )


@_REGISTRY.primitive_rule
def _number(info: PrimitiveTypeInfo) -> _Spec:
    """Read a number; anything else gets a message without Python's terms."""
    if info.type not in (int, float):
        return None
    number, what = info.type, "a whole number" if info.type is int else "a number"

    def read(strings: list[str]) -> Any:
        try:
            return number(strings[0])
        except ValueError:
            raise ValueError(f"{_quoted(strings[0])} is not {what}.") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=number.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (int, number)),
        str_from_instance=lambda value: [str(value)],
    )


@_REGISTRY.primitive_rule
def _choice(info: PrimitiveTypeInfo) -> _Spec:
    """Read one of several words; an unknown one names the nearest."""
    if info.type_origin is not Literal:
        return None
    words = typing.get_args(info.type)

    def read(strings: list[str]) -> str:
        if strings[0] not in words:
            near = did_you_mean(strings[0], words)
            expected = f"Expected {', '.join(words)}."
            raise ValueError(f"{_quoted(strings[0])} is unknown.{near} {expected}")
        return strings[0]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(words) + "}",
        instance_from_str=read,
        is_instance=lambda value: value in words,
        str_from_instance=lambda value: [value],
    )


@_REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> _Spec:
    """Read `X | None` like X, or the word None."""
    options = typing.get_args(info.type)
    if type(None) not in options or len(options) != 2:
        return None
    (option,) = (each for each in options if each is not type(None))
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(option, set(info.markers)))
    if isinstance(spec, UnsupportedTypeAnnotationError) or spec.nargs != 1:
        return None
    return dataclasses.replace(
        spec,
        instance_from_str=lambda strings: (
            None if strings == ["None"] else spec.instance_from_str(strings)
        ),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: (
            ["None"] if value is None else spec.str_from_instance(value)
        ),
    )


_ArgConfig: Any = type(tyro.conf.arg())


def _hint(default: str) -> str:
    return "" if default in ("None", "", "False") else f"(default: {default})"


class _PlainFields:
    """tyro's rule for dataclasses, without hints about empty defaults."""

    def __init__(self) -> None:
        self._within = False

    def __call__(self, info: StructTypeInfo) -> StructConstructorSpec | None:
        if self._within or not dataclasses.is_dataclass(info.type):
            return None
        self._within = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            self._within = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        return dataclasses.replace(spec, fields=tuple(map(self._plain, spec.fields)))

    @staticmethod
    def _plain(field: StructFieldSpec) -> StructFieldSpec:
        hint: Any = field.type
        metadata = getattr(hint, "__metadata__", ())
        own = (each for each in metadata if isinstance(each, _ArgConfig))
        arg: Any = next(own, tyro.conf.arg())
        if arg.help_behavior_hint is not None:
            return field
        arg = dataclasses.replace(arg, help_behavior_hint=_hint)
        text = field.helptext() if callable(field.helptext) else field.helptext
        others = [each for each in metadata if not isinstance(each, _ArgConfig)]
        base = typing.get_args(hint)[0] if metadata else hint
        return dataclasses.replace(
            field,
            type=Annotated[(base, *others, arg)],  # type: ignore[arg-type]
            helptext=" ".join(text.split()) if text else text,
        )


_REGISTRY.struct_rule(_PlainFields())
