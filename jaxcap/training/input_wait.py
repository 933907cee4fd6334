"""How long devices stand still because the next batch is not there yet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Waiting:
    """Watches the batches come and the steps end, for use in a `with` statement.

    A step is handed to the device long before it is computed, and the host asks for batches that
    are needed later; so most of the time that the host waits for a batch costs nothing. It does
    from the moment on at which the device has ended all that it was given. A thread looks out for
    that moment, for to the loop itself it would cost the lead over the device.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="waiting")
        self._last: Future[float] | None = None
        # When the loop began to wait for each batch, when it got it, and the last step before.
        self._waits: list[tuple[float, float, Future[float] | None]] = []

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        # A step that hangs, for want of another host, must not keep this process from ending.
        self._thread.shutdown(wait=False, cancel_futures=True)

    def batches(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches."""
        while True:
            began = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waits.append((began, time.monotonic(), self._last))
            yield batch

    def handed_over(self, result: Any, ended: Callable[[], None]) -> None:
        """Notes a step, of which `result` is an array.

        Args:
          ended: called, in the thread, when the device has computed it.
        """

        def watch() -> float:
            result.block_until_ready()
            now = time.monotonic()
            ended()
            return now

        self._last = self._thread.submit(watch)

    def seconds(self) -> float:
        """The time that devices stood still since the last call; waits for the steps before."""
        waits, self._waits = self._waits, []
        return math.fsum(
            max(0.0, got - (began if last is None else max(began, last.result())))
            for began, got, last in waits
        )
