"""Report compilations that take long."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

LONG = 2.0
"""The shortest compilation to report, in seconds."""
# Names of JAX's monitoring events. If JAX renames them, nothing is reported.
_COMPILED = "/jax/core/compile/backend_compile_duration"
_RETRIEVED = "/jax/compilation_cache/cache_retrieval_time_sec"


def cache_note() -> str:
    """Return the end of a sentence that says where compiled programs are cached."""
    directory = jax.config.values["jax_compilation_cache_dir"]
    return f"; compiled programs are cached in {directory}" if directory else ""


@contextlib.contextmanager
def reported_to(report: Callable[[str], None]) -> Iterator[None]:
    """Report each long compilation, or read from the cache, inside the `with` statement."""
    retrieved = False

    def listen(event: str, duration_secs: float, **about: Any) -> None:
        nonlocal retrieved
        if event == _RETRIEVED:
            retrieved = True
        elif event == _COMPILED:
            if duration_secs >= LONG:
                name = about.get("fun_name", "a program").removeprefix("jit(").removesuffix(")")
                how = "Read the compiled" if retrieved else "Compiled"
                report(f"{how} {name} in {duration_secs:.1f} s")
            retrieved = False

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
