"""Measure how long devices are idle because the next batch is not ready."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Waiting:
    """Watches batches arrive and steps end, for use in a `with` statement.

    The host dispatches steps long before the device computes them, and asks for batches ahead of
    time, so waiting for a batch usually costs nothing. It does once the device has finished
    everything dispatched. A thread watches for that moment: if the loop itself waited, it would
    lose its lead over the device.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="waiting")
        self._last: Future[float] | None = None
        # For each batch: when the wait began and ended, and the step dispatched before it.
        self._waits: list[tuple[float, float, Future[float] | None]] = []

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        # A step may hang because another host is gone; the process must still be able to exit.
        self._thread.shutdown(wait=False, cancel_futures=True)

    def batches(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield the batches, timing each wait."""
        while True:
            began = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waits.append((began, time.monotonic(), self._last))
            yield batch

    def watch_step(self, result: Any, on_end: Callable[[], None]) -> None:
        """Watch a step that was just dispatched.

        Args:
          result: an array that the step returned.
          on_end: called in the watching thread when the device has computed the step.
        """
        self._last = self._thread.submit(_wait, result, on_end)

    def seconds(self) -> float:
        """Return the seconds that devices were idle since the last call; wait for their steps."""
        waits, self._waits = self._waits, []
        return math.fsum(
            max(0.0, got - (began if last is None else max(began, last.result())))
            for began, got, last in waits
        )


def _wait(result: Any, on_end: Callable[[], None]) -> float:
    """Return the time at which the result was computed."""
    result.block_until_ready()
    now = time.monotonic()
    on_end()
    return now
