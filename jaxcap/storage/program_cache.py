"""Keep compiled programs on disk, so that the next process need not trace and lower them again.

JAX's compilation cache stores compiled programs, but a new process must trace and lower the
function to find its entry; for a captioner that takes longer than everything else. This cache
finds them without tracing. Its key covers all that a program depends on: the code of this library,
the versions of JAX, jaxlib and Flax, the options of JAX and XLA, the processor, the caller's
description of the function, and the shapes of the arguments. Weights are arguments and are not
stored.

A store that cannot be read or written, is damaged, or belongs to another user, costs only time.
Programs are code, so those of other users are never run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import platform
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax
import jax

from jaxcap.files import cache_dir, is_private, replacing

_TRACED = ("captioning/decoding.py", "model", "search")
"""The code and tables from which a captioner's program is traced."""

_NOT_STORABLE = b""
"""The entry of a function that is left to JAX's own cache."""


@dataclasses.dataclass(frozen=True)
class Store:
    """A directory of small files by key, shared by processes.

    Attributes:
      directory: created when the first entry is stored.
      limit: the largest number of entries; the least recently used one is evicted.
    """

    directory: Path
    limit: int = 64

    def get(self, key: str) -> bytes | None:
        """Return the entry, or None if it is missing or damaged."""
        path = self.directory / key
        try:
            if not (is_private(self.directory) and is_private(path)):
                return None
            digest, content = path.read_bytes().split(b"\n", 1)
            os.utime(path)
        except (OSError, ValueError):
            return None
        return content if digest == _digest(content) else None

    def put(self, key: str, content: bytes) -> None:
        """Store an entry, if space and permissions allow."""
        with contextlib.suppress(OSError):
            self.directory.mkdir(parents=True, exist_ok=True)
            if not is_private(self.directory):
                return
            with replacing(self.directory / key) as beside:
                beside.write_bytes(_digest(content) + b"\n" + content)
            entries = sorted(self.directory.iterdir(), key=lambda path: path.stat().st_mtime)
            for path in entries[: -self.limit]:
                path.unlink(missing_ok=True)


def default_store() -> Store | None:
    """Return the user's store. None if there is no home directory, or a device other than the CPU.

    On other devices, compiling takes much longer than tracing, and JAX's own cache is enough.
    """
    directory = cache_dir("programs")
    return Store(directory) if directory is not None and jax.default_backend() == "cpu" else None


def keep_compiled_programs() -> None:
    """Let JAX keep compiled programs on disk, unless the user chose a folder or there is none."""
    cache = cache_dir("xla")
    if cache is None or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    if cache.exists() and not is_private(cache):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # Without a writable cache, programs are compiled every time; nothing else changes.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def key_of(*facts: Any) -> str:
    """Return a file name that identifies these facts, by their `repr`, and the traced code."""
    return hashlib.sha256(f"{_code()} {facts!r}".encode()).hexdigest()[:40]


def digest_of_sources(*names: str) -> str:
    """Return the SHA-256 of some files and folders of this library."""
    digest = hashlib.sha256()
    for name in names:
        path = Path(__file__).parents[1] / name
        for source in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if source.suffix in (".py", ".csv"):
                digest.update(f"{source.name}\n".encode() + source.read_bytes())
    return digest.hexdigest()


@functools.cache
def _code() -> str:
    """Return the SHA-256 of the traced sources, the versions, the options and the processor."""
    digest = hashlib.sha256(digest_of_sources(*_TRACED).encode())
    versions = (jax.__version__, importlib.metadata.version("jaxlib"), flax.__version__)
    options = (sorted(jax.config.values.items(), key=str), os.environ.get("XLA_FLAGS"))
    digest.update(repr((versions, options, os.cpu_count(), _processor())).encode())
    return digest.hexdigest()


def _processor() -> str:
    """Return what the processor can do: a program compiled for another may not run on it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def kept(
    function: Callable[..., Any], store: Store, *, result: Callable[..., Any], identity: Any
) -> Callable[..., Any]:
    """Return the same function, traced only if no process has traced it before.

    Args:
      function: a jitted function from pytrees of arrays to a pytree of arrays.
      result: builds that pytree from its leaves.
      identity: distinguishes this function from others, by its `repr`. It need not include the
        code or the shapes of the arguments.
    """
    programs: dict[Any, Callable[..., Any]] = {}

    def call(*arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        if any(isinstance(x, jax.Array) and len(x.devices()) > 1 for x in leaves):
            return function(*arguments)  # stored programs are for one device
        shapes = tuple((x.shape, x.dtype.name) for x in leaves)
        if (tree, shapes) not in programs:
            device = jax.local_devices()[0]
            key = key_of("compiled program", identity, repr(device), str(tree), shapes)
            programs[tree, shapes] = _program(function, store, key, arguments, result)
        return programs[tree, shapes](*arguments)

    return call


def _program(
    function: Callable[..., Any],
    store: Store,
    key: str,
    arguments: tuple[Any, ...],
    result: Callable[..., Any],
) -> Callable[..., Any]:
    content = store.get(key)
    if content == _NOT_STORABLE:
        return function
    leaves, tree = jax.tree.flatten(arguments)
    loaded = None if content is None else _loaded(content, leaves)
    program = loaded or _compiled(function, leaves, tree)
    if loaded is None:
        store.put(key, _serialized(program))
    return lambda *arguments: result(*program(*jax.tree.leaves(arguments)))


def _compiled(
    function: Callable[..., Any], leaves: Sequence[Any], tree: Any
) -> jax.stages.Compiled:
    """Compile the function of the arguments' leaves to a list of arrays."""

    def flat(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))

    # A program that JAX finds in its own cache cannot be stored again: when loaded, it lacks
    # functions. JAX finds none of a new name.
    flat.__name__ = f"program_{uuid.uuid4().hex}"
    return jax.jit(flat, keep_unused=True).lower(*leaves).compile()


def _serialized(program: jax.stages.Compiled) -> bytes:
    """Return a program, and before it the number of its results."""
    try:
        from jax.experimental.serialize_executable import serialize

        content, _, results = serialize(program)
    except Exception:  # the interface is experimental, and not every function can be stored
        return _NOT_STORABLE
    return results.num_leaves.to_bytes(2) + zlib.compress(content, level=1)


def _loaded(content: bytes, leaves: Sequence[Any]) -> jax.stages.Compiled | None:
    """Return the program that `_serialized` gave; None if it cannot be loaded."""
    arguments = jax.tree.structure((tuple(leaves), {}))
    results = jax.tree.structure([0] * int.from_bytes(content[:2]))
    try:
        from jax.experimental.serialize_executable import deserialize_and_load

        return deserialize_and_load(
            zlib.decompress(content[2:]),
            arguments,
            results,
            execution_devices=jax.local_devices()[:1],
        )
    except Exception:  # it is compiled again
        return None


@contextlib.contextmanager
def without_source_lines() -> Iterator[None]:
    """Export programs without source locations, which contain file names of this machine."""
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)
