"""The search options of requests: read, checked, and bounded in cost.

Each combination of options is a separate compiled program. The number of programs that clients may
ask for is bounded, and so is the number of captions at once.
"""

from __future__ import annotations

import threading
import typing
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from jaxcap.captioning.loaded_model import LoadedModel
from jaxcap.captioning.results import Captioned
from jaxcap.config import SearchConfig
from jaxcap.config.options import Option, options_of
from jaxcap.messages.errors import InputError, did_you_mean

MAX_WORDS = 64
"""The longest captions that a request may ask for, unless the model's own are longer."""

OPTIONS: dict[str, Option] = {each.flag: each for each in options_of(SearchConfig).values()}
"""The options that a request may give, by the name that `jaxcap caption` has for them."""

_WITH_BEAMS = ("beam", "diverse")
_TRUE, _FALSE = ("", "1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(eq=False)
class Program:
    """A model with one configuration of search.

    Attributes:
      model: the model, which returns all its beams.
      sizes: the batch sizes that are compiled, in rising order.
      compiled: done once they are compiled; its exception says why they could not be.
    """

    model: LoadedModel
    sizes: tuple[int, ...]
    compiled: Future[None] = field(default_factory=Future)

    def compile(self, stop: threading.Event) -> None:
        """Compile the batch sizes, one after the other, until `stop` is set."""
        try:
            for size in self.sizes:
                if stop.is_set():
                    raise InputError("the server is stopping")
                self.model.warm_up([size])
        except BaseException as error:
            self.compiled.set_exception(error)
        else:
            self.compiled.set_result(None)


@dataclass(frozen=True)
class Search:
    """The search and the captions that one request asks for.

    Attributes:
      n_best: how many captions to return; None: all.
      attention: whether to return the attention of each word.
    """

    program: Program
    n_best: int | None
    attention: bool

    def select(self, result: Captioned) -> Captioned:
        """Return a result with only the captions that were asked for."""
        return replace(result, captions=result.captions[: self.n_best])


class Searches:
    """The programs of a server: its own, and those that requests ask for."""

    def __init__(
        self, model: LoadedModel, *, sizes: Sequence[int], limit: int, max_beams: int
    ) -> None:
        """Initialise with the server's own program, which is not compiled yet.

        Args:
          model: its search options are those of a request that gives none.
          sizes: the batch sizes to compile, in rising order.
          limit: the largest number of programs, the server's own included.
          max_beams: the largest number of captions of an image that a search may follow.
        """
        self._model, self._limit, self._max_beams = model, limit, max_beams
        # Other programs are used less: fewer sizes of them are compiled.
        self._sizes, self._few = tuple(sizes), tuple(sorted({sizes[0], sizes[-1]}))
        self._programs: dict[SearchConfig, Program] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self.own = Program(_all_beams(model), self._sizes)
        self._programs[self.own.model.config.search] = self.own

    def compile_own(self) -> Future[None]:
        """Start compiling the server's own program."""
        self._compiling.submit(self.own.compile, self._stop)
        return self.own.compiled

    def close(self) -> None:
        """Stop compiling."""
        self._stop.set()
        self._compiling.shutdown(wait=False, cancel_futures=True)

    def choose(self, options: dict[str, Any], *, attention: bool = False) -> Search:
        """Return the search with these options, and start compiling it if it is new.

        Args:
          options: fields of `SearchConfig`.
          attention: whether the attention of each word is wanted.

        Raises:
          InputError: an option is unknown or invalid, it costs too much, or too many programs
            are compiled already.
        """
        model = self._model.with_search(**options) if options else self._model
        config = model.config.search
        n_best = (config.n_best or None) if config.method in _WITH_BEAMS else None
        if not options:
            return Search(self.own, n_best, attention)
        self._check_cost(config)
        model = _all_beams(model)
        with self._lock:
            if (program := self._programs.get(model.config.search)) is None:
                if len(self._programs) >= self._limit:
                    raise InputError(
                        f"this server has compiled {self._limit} combinations of search options "
                        "and compiles no more. Give options of an earlier request, or none; n_best "
                        "and words may vary. The server's --searches sets the limit."
                    )
                program = Program(model, self._few)
                self._programs[model.config.search] = program
                self._compiling.submit(program.compile, self._stop)
        return Search(program, n_best, attention)

    def _check_cost(self, config: SearchConfig) -> None:
        requirements = len(config.required_words)
        if config.guide:
            requirements = min(4, requirements + config.guide_words)
        beams = {"greedy": 1, "sample": config.samples}.get(config.method, config.beam_size)
        if config.method == "beam":
            beams <<= requirements
        if beams > self._max_beams:
            found = "samples" if config.method == "sample" else "beams"
            double = ", which double with each required word" if requirements else ""
            raise InputError(
                f"this search follows {beams} {found}{double}; this server allows "
                f"{self._max_beams} (its --max-beams)."
            )
        longest = max(MAX_WORDS, self._model.config.search.max_length)
        if config.max_length > longest:
            raise InputError(f"max_length is {config.max_length}; this server allows {longest}.")


def _all_beams(model: LoadedModel) -> LoadedModel:
    """Let the search return every beam: choosing among them needs no other program."""
    search = model.config.search
    return model.with_search(n_best=0) if search.method in _WITH_BEAMS and search.n_best else model


def parse_options(query: Iterable[tuple[str, str]]) -> tuple[dict[str, Any], bool]:
    """Read the options of a request.

    Args:
      query: names and values; `beam-size` and `beam_size` are the same name.

    Returns:
      Fields of `SearchConfig`, and whether `words` was given.

    Raises:
      InputError: an option is unknown, given twice, or of another type.
    """
    options: dict[str, Any] = {}
    words = False
    seen = set()
    for given, value in query:
        name = given.replace("-", "_")
        if name not in OPTIONS and name != "words":
            known = [*OPTIONS, "words"]
            raise InputError(
                f"there is no option '{given[:50]}'.{did_you_mean(name, known)} "
                f"Known: {', '.join(known)}."
            )
        if name == "words":
            words = _typed(bool, value, name)
            continue
        option = OPTIONS[name]
        if typing.get_origin(option.hint) is tuple:
            options[option.name] = (*options.get(option.name, ()), value)
            continue
        if name in seen:
            raise InputError(f"{name} is given twice.")
        seen.add(name)
        options[option.name] = _typed(option.hint, value, name)
    return options, words


def _typed(hint: Any, value: str, name: str) -> Any:
    """Return a value of the option's type; `validate` checks words of a `Literal`."""
    if hint is bool:
        if value.lower() not in (*_TRUE, *_FALSE):
            raise InputError(f"{name} is '{value[:50]}'; expected true or false.")
        return value.lower() in _TRUE
    if hint not in (int, float):
        return value
    try:
        return hint(value)
    except ValueError:
        kind = "a whole number" if hint is int else "a number"
        raise InputError(f"{name} is '{value[:50]}'; expected {kind}.") from None
