"""The options of search, as `jaxcap caption`, `export`, `evaluate` and `serve` take them.

They are the fields of `SearchConfig`: a new field there is an option of all these commands.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxcap.config import SearchConfig
from jaxcap.config.options import Option, field_docstrings, options_of


def _field(option: Option, help: str) -> tuple[str, Any, Any]:
    """Return name, type and default of the command-line field of an option."""
    hint: Any = option.hint
    default: Any = None
    if typing.get_origin(hint) is tuple:
        help = f"{help} Give one --{option.flag} per word."
        argument = tyro.conf.arg(name=option.flag, metavar="WORD", help=help, help_behavior_hint="")
        append: Any = tyro.conf.UseAppendAction
        hint, default = append[Annotated[hint, argument]], ()
    elif hint is bool:
        default = False
        hint = Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help=help)]
    else:
        metavar = _metavar(hint)
        argument = tyro.conf.arg(metavar=metavar, help=help, help_behavior_hint="")
        hint = Annotated[hint | None, argument]
    return option.name, hint, dataclasses.field(default=default)


def _metavar(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "{" + ",".join(typing.get_args(hint)) + "}"
    return str(hint.__name__).upper()


def _create() -> type:
    docstrings = field_docstrings(SearchConfig)
    fields = [
        _field(option, docstrings.get(option.name, ""))
        for option in options_of(SearchConfig).values()
    ]
    created = dataclasses.make_dataclass("SearchOptions", fields, frozen=True)
    created.__module__ = __name__
    created.__doc__ = "How captions are decoded; by default as the run was configured."
    return created


if TYPE_CHECKING:
    SearchOptions = types.SimpleNamespace
else:
    SearchOptions = _create()

SEARCH_OPTIONS_WITH_VALUE = {
    option.flag for option in options_of(SearchConfig).values() if option.hint is not bool
}
"""Names of the command-line options that a value follows."""

SearchGroup = tyro.conf.OmitArgPrefixes[SearchOptions]
"""The type of a command's field `search`: its options have no prefix."""


def given_search(options: SearchOptions) -> dict[str, Any]:
    """Return the options that the user gave, for `LoadedModel.with_search`."""
    return {
        name: value
        for name, value in vars(options).items()
        if value is not None and value is not False and value != ()
    }
