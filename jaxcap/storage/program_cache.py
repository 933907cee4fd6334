"""What JAX makes of a function, kept on disk, so that the next process need not trace it again.

JAX's compilation cache keeps what XLA made of a program, but a new process must first trace the
function and lower it to find that entry: for a captioner that is longer than all the rest. Here the
lowered program lies on disk too, as StableHLO with its arguments open, under a key made of all that
it depends on: the code of this library, the versions of JAX and Flax, the options of JAX, what the
caller says of the function, and the shapes of its arguments. Weights are no part of it.

A store that cannot be read or written, or holds something damaged, costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax
import jax
import jax.export
import jax.numpy as jnp

from jaxcap.files import replacing

_TRACED = ("captioning/decoding.py", "model", "search")
"""The code that a captioner's program is traced from."""

_LIMIT = 64
"""Entries in a store; the one that was used longest ago makes room for another."""


@dataclasses.dataclass(frozen=True)
class Store:
    """A directory of small files under keys, which processes share.

    Attributes:
      directory: made when something is first kept.
    """

    directory: Path

    def get(self, key: str) -> bytes | None:
        """What was kept, whole and sound, or None."""
        path = self.directory / key
        try:
            digest, content = path.read_bytes().split(b"\n", 1)
            os.utime(path)
        except (OSError, ValueError):
            return None
        return content if digest == _digest(content) else None

    def put(self, key: str, content: bytes) -> None:
        """Keeps it, if there is room and permission."""
        with contextlib.suppress(OSError):
            self.directory.mkdir(parents=True, exist_ok=True)
            with replacing(self.directory / key) as beside:
                beside.write_bytes(_digest(content) + b"\n" + content)
            entries = sorted(self.directory.iterdir(), key=lambda path: path.stat().st_mtime)
            for path in entries[:-_LIMIT]:
                path.unlink(missing_ok=True)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def key_of(*facts: Any) -> str:
    """A file name that stands for these facts, by their `repr`, and for the code at work."""
    return hashlib.sha256(f"{_code()} {facts!r}".encode()).hexdigest()[:40]


@functools.cache
def _code() -> str:
    """SHA-256 of the sources that are traced, and of all that JAX lets people set."""
    digest = hashlib.sha256()
    for name in _TRACED:
        path = Path(__file__).parents[1] / name
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{source.name}\n".encode() + source.read_bytes())
    digest.update(f"{jax.__version__} {flax.__version__} {os.cpu_count()}".encode())
    digest.update(repr(sorted(jax.config.values.items(), key=str)).encode())
    return digest.hexdigest()


def kept(
    function: Callable[..., Any], store: Store, *, result: Callable[..., Any], identity: Any
) -> Callable[..., Any]:
    """The same function, traced only if no process has done so before.

    Args:
      function: jitted; trees of arrays to a NamedTuple of arrays.
      result: that NamedTuple.
      identity: tells this function from others, by its `repr`; the code and the shapes of the
        arguments need not be in it.
    """
    programs: dict[Any, Callable[..., Any]] = {}

    def call(*arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        described = tuple((x.shape, x.dtype.name) for x in leaves)
        if (tree, described) not in programs:
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
            key = key_of("program", identity, jax.default_backend(), str(tree), described)
            programs[tree, described] = _program(function, store, key, shapes, result)
        return programs[tree, described](*arguments)

    return call


def _program(
    function: Callable[..., Any],
    store: Store,
    key: str,
    shapes: tuple[Any, ...],
    result: Callable[..., Any],
) -> Callable[..., Any]:
    content = store.get(key)
    if content is None:
        try:
            content = _exported(function, shapes)
        except (NotImplementedError, TypeError, ValueError):  # not all of JAX can be exported
            return function
        store.put(key, content)
    # Also where it was just exported: XLA's entry is then the one that the next process looks for.
    program = _imported(content, shapes)
    return lambda *arguments: result(*program(*arguments))


def _exported(function: Callable[..., Any], shapes: tuple[Any, ...]) -> bytes:
    """A line of JSON about what comes out, and the StableHLO."""

    def captions(*arguments: Any) -> list[Any]:
        return list(function(*arguments))

    with without_source_lines():
        exported = jax.export.export(jax.jit(captions, keep_unused=True))(*shapes)
    about = {
        "outputs": [(list(x.shape), x.dtype.name) for x in exported.out_avals],
        # What jax.export.Exported must be told of the code, see docs/export.md.
        "fields": {"calling_convention_version": exported.calling_convention_version},
    }
    return json.dumps(about).encode() + b"\n" + exported.mlir_module_serialized


def _imported(content: bytes, shapes: tuple[Any, ...]) -> Callable[..., Any]:
    """What `_exported` wrote, as a jitted function.

    JAX's own files of exported programs need a package more, and are not needed here: all but the
    code is as for a function of the same signature that does nothing.
    """
    line, code = content.split(b"\n", 1)
    about = json.loads(line)

    def captions(*arguments: Any) -> list[Any]:
        return [jnp.zeros(shape, dtype) for shape, dtype in about["outputs"]]

    with without_source_lines():
        shell = jax.export.export(jax.jit(captions, keep_unused=True))(*shapes)
        program = dataclasses.replace(shell, mlir_module_serialized=code, **about["fields"])
    return jax.jit(program.call)


@contextlib.contextmanager
def without_source_lines() -> Iterator[None]:
    """Keeps the names of this machine's files, which JAX notes at every operation, out of code."""
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)
