"""Caption the images of many requests together, in one JAX thread.

Threads decode images. The JAX thread takes those that are ready and ask for the same program, pads
them to a compiled size, and captions them. While it computes, the next batch collects.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from jaxcap.captioning.image_reading import ImageLike, ReadImage
from jaxcap.captioning.results import Captioned
from jaxcap.serving.searches import Program, Search

_LOG = logging.getLogger(__name__)


@dataclass
class _Job:
    image: ReadImage
    search: Search
    future: Future[Captioned]


class Batcher:
    """A queue of images, and the thread that captions them.

    The caller bounds the number of images in it.
    """

    def __init__(
        self,
        *,
        window: float,
        threads: int,
        max_pixels: int | None,
        observe: Callable[[int], object] = lambda size: None,
    ) -> None:
        """Start the thread.

        Args:
          window: the longest time, in seconds, that an image waits for others that are being
            decoded. An image without others waits for none.
          threads: how many threads decode images.
          max_pixels: refuse larger images.
          observe: called with the number of images of each batch.
        """
        self._window, self._max_pixels, self._observe = window, max_pixels, observe
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._changed = threading.Condition()
        self._waiting: dict[Program, list[_Job]] = {}  # the program that waits longest is first
        self._decoding = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="jax", daemon=True)
        self._thread.start()

    def submit(self, image: ImageLike, number: int, search: Search) -> Future[Captioned]:
        """Queue an image, and return the future of its captions.

        A cancelled future leaves the queue. An image that cannot be read has an `error`.

        Args:
          number: names an image without a name.
          search: its program is compiled.
        """
        future: Future[Captioned] = Future()
        held = [image]
        future.add_done_callback(lambda done: held.clear())  # of a client that has left, nothing
        with self._changed:
            self._decoding += 1
        self._pool.submit(self._decode, held, number, search, future)
        return future

    def close(self) -> None:
        """Caption all queued images, then end the thread."""
        self._pool.shutdown()
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _decode(
        self, held: list[ImageLike], number: int, search: Search, future: Future[Captioned]
    ) -> None:
        image = None
        try:
            if not future.cancelled():
                model = search.program.model
                image = model.read(held.pop(), number, max_pixels=self._max_pixels)
        except BaseException as error:  # a bug: the request fails, the others go on
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        if image is not None and image.error is not None:
            if future.set_running_or_notify_cancel():
                future.set_result(Captioned(image.name, error=image.error))
            image = None
        with self._changed:
            self._decoding -= 1
            if image is not None:
                jobs = self._waiting.setdefault(search.program, [])
                jobs.append(_Job(replace(image, source=None), search, future))
            self._changed.notify()

    def _run(self) -> None:
        while (program := self._next()) is not None:
            jobs, size = self._take(program)
            if jobs:
                self._caption(program, jobs, size)

    def _next(self) -> Program | None:
        """Wait until a batch is due, and return its program; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            program = next(iter(self._waiting))
            until = time.monotonic() + self._window
            while self._decoding and len(self._waiting[program]) < program.sizes[-1]:
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            return program

    def _take(self, program: Program) -> tuple[list[_Job], int]:
        """Take a batch from the queue; return it and its compiled size."""
        with self._changed:
            waiting = [job for job in self._waiting.pop(program) if not job.future.cancelled()]
            size = batch_size(len(waiting), program.sizes)
            if left := waiting[size:]:
                self._waiting[program] = left  # after the other programs
        return [job for job in waiting[:size] if job.future.set_running_or_notify_cancel()], size

    def _caption(self, program: Program, jobs: list[_Job], size: int) -> None:
        self._observe(len(jobs))
        try:
            results = program.model.caption_batch(
                [job.image for job in jobs],
                batch_size=size,
                attention=any(job.search.attention for job in jobs),
            )
        except BaseException as error:
            _LOG.exception("a batch of %d images failed", len(jobs))
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(job.search.select(result))


def batch_size(waiting: int, sizes: tuple[int, ...]) -> int:
    """Return the compiled size for a number of waiting images.

    It is the smallest that holds them, or a smaller one if more than half of it would be padding;
    the images beyond it wait for the next batch.
    """
    size = next((size for size in sizes if size >= waiting), sizes[-1])
    smaller = [each for each in sizes if each <= waiting]
    return smaller[-1] if smaller and 2 * waiting <= size else size
