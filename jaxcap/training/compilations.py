"""Tells of programs whose compilation keeps a person waiting."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

LONG = 2.0
"""Seconds from which on a compilation is told of."""
# JAX's names of them (jax/_src/dispatch.py, jax/_src/compiler.py). Should they change, nothing is
# told.
_COMPILED = "/jax/core/compile/backend_compile_duration"
_RETRIEVED = "/jax/compilation_cache/cache_retrieval_time_sec"


def place() -> str:
    """Where compiled programs are kept, as part of a sentence."""
    directory = jax.config.values["jax_compilation_cache_dir"]
    return f"; programs are kept in {directory}" if directory else ""


@contextlib.contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
    """Says of each program that is compiled meanwhile, or read from where it was kept, which it
    was and how long that took, if it was long."""
    retrieved = False

    def listen(event: str, duration_secs: float, **about: Any) -> None:
        nonlocal retrieved
        if event == _RETRIEVED:
            retrieved = True
        elif event == _COMPILED:
            if duration_secs >= LONG:
                name = about.get("fun_name", "a program").removeprefix("jit(").removesuffix(")")
                how = "Read the compiled" if retrieved else "Compiled"
                say(f"{how} {name} in {duration_secs:.1f} s")
            retrieved = False

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
