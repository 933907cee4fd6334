"""Pytrees of arrays in a directory, written and read by Orbax."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from jaxcap.storage.trained import named

_SECONDS = 10.0
"""How long to wait for threads, which may wait for one that failed."""


class UnreadableError(Exception):
    """The directory cannot be read."""


class MismatchError(Exception):
    """The directory has arrays of other names or shapes.

    Attributes:
      part: the tree that differs.
      lines: a few of the differences.
    """

    def __init__(self, part: str, lines: Sequence[str]):
        super().__init__(part, *lines)
        self.part, self.lines = part, lines


def begin_saving(directory: Path, trees: dict[str, Any]) -> Callable[[], None]:
    """Start writing each tree under its name; the arrays may be donated at once.

    Returns:
      A function to call once, which waits until all is written, or raises what went wrong. Then
      nothing is writing any more.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet_orbax())
        stack.callback(_end_threads)
        response = ocp.save_checkpointables_async(directory, trees)
        saving = stack.pop_all()

    def wait() -> None:
        with saving:
            response.result()

    return wait


def _end_threads() -> None:
    """Wait for Orbax's threads: after an error in one of them, the others still write and log."""
    until = time.monotonic() + _SECONDS
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            thread.join(max(0.0, until - time.monotonic()))


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block.

    Orbax turns it into an error of its own. The checkpoint then seemed damaged, and an older one
    was used.
    """
    usual = signal.default_int_handler
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return
    arrived: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if arrived:
            raise KeyboardInterrupt


@_interrupted_afterwards()
def load_arrays(directory: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Load the trees named in `like`.

    Args:
      like: trees of the same shapes, types and shardings (this process's first device,
        where there are none).

    Raises:
      MismatchError: they have other names, shapes, or kinds of numbers.
      UnreadableError: anything else.
    """
    for part, tree in like.items():
        _compare(directory, part, tree)
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=getattr(x, "sharding", None) or one
        ),
        like,
    )
    try:
        with quiet_orbax():
            loaded: dict[str, Any] = ocp.load_checkpointables(directory, abstract)
    except (ValueError, KeyError, OSError) as error:
        raise UnreadableError(f"its arrays cannot be read ({reason(error)})") from error
    # A copy of JAX's own: restored buffers may be shared, and training donates its state.
    return jax.tree.map(jnp.copy, loaded)


def _compare(directory: Path, part: str, like: Any) -> None:
    """Compare before loading: Orbax's own error would fill a screen, and it casts any type."""
    try:
        with quiet_orbax():
            stored = ocp.metadata(directory, part).metadata
        found = _described(stored)
        _check_chunks(stored)
    except UnreadableError:
        raise
    except Exception as error:  # whatever a damaged directory may cause
        raise UnreadableError(f"the list of its arrays cannot be read ({reason(error)})") from error
    if not found:
        # Orbax also returns nothing if it cannot read the description of one of the arrays.
        raise UnreadableError(f"no arrays are in {part}, or their descriptions are damaged")
    expected = _described(like)
    differ = [
        f"  {name}: {found.get(name, 'absent')}, expected {expected.get(name, 'absent')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if differ:
        more = [f"  and {len(differ) - 3} more"] if len(differ) > 3 else []
        raise MismatchError(part, differ[:3] + more)


def _described(tree: Any) -> dict[str, str]:
    """Return the shape of each array, with its type unless that is a real floating one.

    Raises:
      UnreadableError: a leaf is not an array.
    """
    arrays = named(tree)
    for name, x in arrays.items():
        if not hasattr(x, "shape"):
            raise UnreadableError(f"{name} is stored as a {type(x).__name__}, not as an array")
    return {
        name: str(tuple(x.shape)) + ("" if jnp.issubdtype(x.dtype, jnp.floating) else f" {x.dtype}")
        for name, x in arrays.items()
    }


def _check_chunks(tree: Any) -> None:
    """Refuse chunks larger than their array; a few bytes would decompress into gigabytes.

    Orbax writes no such chunks.

    Raises:
      UnreadableError: an array has them.
    """
    for name, x in named(tree).items():
        chunk = x.storage_metadata.chunk_shape if x.storage_metadata else None
        if chunk and any(size > most for size, most in zip(chunk, x.shape, strict=True)):
            raise UnreadableError(f"{name} has the shape {x.shape}, but chunks of {tuple(chunk)}")


def reason(error: BaseException) -> str:
    """Return the first line of the error that began it all, truncated to 200 characters."""
    while error.__cause__ is not None:  # Orbax says "incompatible handler" of any damage
        error = error.__cause__
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"[:200]


_quiet = threading.Lock()
_quiet_users: list[int] = []


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Suppress Orbax's pages of error logs; an `InputError` replaces them.

    Several threads may use this at once.
    """
    logger = logging.getLogger("absl")
    with _quiet:
        _quiet_users.append(logger.level)
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        with _quiet:
            # The first to enter saved the level that the last to leave restores.
            level = _quiet_users.pop(-1 if len(_quiet_users) > 1 else 0)
            if not _quiet_users:
                logger.setLevel(level)
