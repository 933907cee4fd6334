"""A `jax.jit` that compiles equal functions of the package once.

Each training and each loaded captioner jits closures of its own, so JAX traces and loads the same
programs again, which takes most of the time of a short training. Functions are equal here if they
have the same code, the same defaults, and equal values in their closures.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

_compile = jax.jit
_programs: dict[Hashable, Any] = {}


@contextlib.contextmanager
def shared(*, optimise_steps: bool = False) -> Iterator[None]:
    """Compile equal functions of the package once within all such contexts.

    Args:
      optimise_steps: optimise the caller's and the package's training steps. Compiling takes as
        long as seven steps without, which take ten times as long to run.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", functools.partial(_jit, optimise_steps))
        yield


def _jit(optimise_steps: bool, fun: Callable[..., Any], **options: Any) -> Any:
    """Return `jax.jit(fun, **options)`; the same for equal functions, if the package calls."""
    if optimise_steps and "donate_argnums" in options:  # only steps donate
        options["compiler_options"] = {"xla_backend_optimization_level": 1}
    if not sys._getframe(1).f_globals["__name__"].startswith("jaxcap."):
        return _compile(fun, **options)
    try:
        key = _identity(fun), _identity(options)
        if key not in _programs:
            _programs[key] = _compile(fun, **options)
    except (TypeError, ValueError, RecursionError):  # not hashable, not yet assigned, recursive
        return _compile(fun, **options)
    return _programs[key]


def _identity(value: Any) -> Hashable:
    """Return a key that is equal for functions that compute the same."""
    match value:
        case functools.partial():
            return _identity(value.func), _identity(value.args), _identity(value.keywords)
        case types.MethodType():
            return value.__func__, _identity(value.__self__)
        case types.FunctionType() if "jaxtyping" in value.__code__.co_filename:
            return _identity(value.__wrapped__)  # the check of its shapes is the same too
        case types.FunctionType():
            closure = [cell.cell_contents for cell in value.__closure__ or ()]
            constants = (closure, value.__defaults__, value.__kwdefaults__)
            return value.__module__, value.__qualname__, value.__code__, _identity(constants)
        case tuple() | list():
            return type(value), tuple(map(_identity, value))
        case dict():
            return tuple((name, _identity(each)) for name, each in value.items())
        case np.ndarray():
            return value.dtype.str, value.shape, value.tobytes()
        case _:
            return type(value), value
