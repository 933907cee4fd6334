"""Match a regular expression by backtracking, and count the characters that it looks at.

Time depends on the machine, and the standard library does not tell its steps. This matcher knows
only what the tokenizer's rules use. It takes the same paths as `re`, without its short cuts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

Ends = Callable[[int], Iterator[int]]
"""Yields the ends of the matches at a position, in the order in which `re` tries them."""

_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    sre.CATEGORY_SPACE: str.isspace,
    sre.CATEGORY_NOT_SPACE: lambda character: not character.isspace(),
    sre.CATEGORY_DIGIT: str.isdecimal,
}


_parsed = functools.cache(parser.parse)


@functools.cache
def is_bounded(pattern: str) -> bool:
    """Return whether matches have a greatest length."""
    return bool(_parsed(pattern).getwidth()[1] < sre.MAXREPEAT)


class Matcher:
    """Matches in one text.

    Attributes:
      steps: the number of times that a character was looked at.
    """

    def __init__(self, text: str) -> None:
        self._text, self.steps = text, 0
        self._compiled: dict[str, Ends] = {}

    def end(self, pattern: str, position: int) -> int | None:
        """Return the end of the match at `position`, or None."""
        if pattern not in self._compiled:
            self._compiled[pattern] = self._sequence(list(_parsed(pattern)), fold=False)
        return next(self._compiled[pattern](position), None)

    def _sequence(self, items: list[Any], *, fold: bool) -> Ends:
        parts = [self._item(*item, fold=fold) for item in items]

        def ends(at: int, part: int = 0) -> Iterator[int]:
            if part == len(parts):
                yield at
                return
            for end in parts[part](at):
                yield from ends(end, part + 1)

        return ends

    def _item(self, op: Any, argument: Any, *, fold: bool) -> Ends:
        if op is sre.SUBPATTERN:
            _, added, _, items = argument
            return self._sequence(list(items), fold=fold or bool(added & re.IGNORECASE))
        if op is sre.BRANCH:
            branches = [self._sequence(list(items), fold=fold) for items in argument[1]]
            return lambda at: (end for branch in branches for end in branch(at))
        if op in (sre.MAX_REPEAT, sre.POSSESSIVE_REPEAT):
            least, most, items = argument
            repeated = self._repeated(list(items), least, most, fold=fold)
            return repeated if op is sre.MAX_REPEAT else lambda at: iter([*repeated(at)][:1])
        if op is sre.AT:
            assert argument is sre.AT_END
            return lambda at: iter([at] if at == len(self._text) else [])
        is_match = self._character(op, argument, fold=fold)
        return lambda at: iter([at + 1] if is_match(at) else [])

    def _repeated(self, items: list[Any], least: int, most: int, *, fold: bool) -> Ends:
        if len(items) == 1 and items[0][0] in (sre.LITERAL, sre.NOT_LITERAL, sre.IN):
            is_match = self._character(*items[0], fold=fold)

            def run(at: int) -> Iterator[int]:
                end = at
                while end - at < most and is_match(end):
                    end += 1
                return iter(range(end, at + least - 1, -1))

            return run
        once = self._sequence(items, fold=fold)

        def ends(at: int, count: int = 0) -> Iterator[int]:
            if count < most:
                for end in once(at):
                    if end > at:
                        yield from ends(end, count + 1)
            if count >= least:
                yield at

        return ends

    def _character(self, op: Any, argument: Any, *, fold: bool) -> Callable[[int], bool]:
        @functools.cache
        def is_in(character: str) -> bool:
            forms = {character, *((character.lower(), character.upper()) if fold else ())}
            if op is not sre.IN:
                return any(ord(x) == argument for x in forms if len(x) == 1) is (op is sre.LITERAL)
            is_negated = argument[0][0] is sre.NEGATE
            members = argument[is_negated:]
            return any(_is_among(x, members) for x in forms if len(x) == 1) is not is_negated

        def is_match(at: int) -> bool:
            self.steps += 1
            return at < len(self._text) and is_in(self._text[at])

        return is_match


def _is_among(character: str, members: Any) -> bool:
    for op, argument in members:
        if op is sre.CATEGORY:
            if _CATEGORIES[argument](character):
                return True
        elif op is sre.RANGE:
            if argument[0] <= ord(character) <= argument[1]:
                return True
        elif ord(character) == argument:
            return True
    return False
