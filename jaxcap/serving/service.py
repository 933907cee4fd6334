"""Requests for captions: their limits, the queue, and the answers to bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from jaxcap.caption_files.output_formats import JsonLines, encoded
from jaxcap.captioning.loaded_model import LoadedModel
from jaxcap.captioning.results import Captioned
from jaxcap.messages.errors import InputError
from jaxcap.serving.batching import Batcher
from jaxcap.serving.bodies import (
    BodyReader,
    Overloaded,
    TooLarge,
    Upload,
    form_files,
    is_multipart,
)
from jaxcap.serving.monitoring import Monitor
from jaxcap.serving.searches import Search, Searches, parse_options

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Settings:
    """What a server allows.

    Attributes:
      sizes: the batch sizes to compile, in rising order.
      window: seconds that an image waits for others that are being decoded.
      threads: threads that decode images.
      queue: the maximum number of images that wait or are being captioned.
      seconds: the maximum time of a request, from its first byte to its answer.
      body_bytes: the maximum size of a body.
      total_bytes: the maximum memory of the bodies of all requests together.
      pixels: the maximum size of an image.
      searches: the maximum number of programs, see `Searches`.
      beams: the maximum number of beams or samples per request.
      token: what clients must send as `Authorization: Bearer TOKEN`; None: nothing.
      origins: the origins of pages that may use the server from a browser, besides its own.
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    window: float = 0.005
    threads: int = 2
    queue: int = 128
    seconds: float = 30.0
    body_bytes: int = 20 << 20
    total_bytes: int = 512 << 20
    pixels: int = 50_000_000
    searches: int = 16
    beams: int = 64
    token: str | None = None
    origins: tuple[str, ...] = ()


class Refused(Exception):
    """A request that is answered without captions.

    Attributes:
      status: the HTTP status.
      kind: how `/metrics` counts it.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        """Initialise with the message for the client."""
        super().__init__(message)
        self.status, self.kind = status, kind


class Service:
    """A model that answers requests.

    Attributes:
      draining: the server is stopping, so connections end after their answers.
      accepted, answered: how many requests for captions came with a whole body, and how many of
        them got an answer.
    """

    def __init__(self, model: LoadedModel, settings: Settings) -> None:
        """Start the threads; nothing is compiled yet."""
        self.model, self.settings = model, settings
        self.searches = Searches(
            model, sizes=settings.sizes, limit=settings.searches, max_beams=settings.beams
        )
        self.monitor = Monitor(lambda: self._queued)
        self._batcher = Batcher(
            window=settings.window,
            threads=settings.threads,
            max_pixels=settings.pixels,
            observe=self.monitor.batch_sizes.observe,
        )
        self._bodies = BodyReader(max_bytes=settings.body_bytes, max_total=settings.total_bytes)
        self._queued = 0
        self.draining = False
        self.accepted = self.answered = 0

    def is_ready(self) -> bool:
        """Return whether the server's own program is compiled."""
        return self._is_compiled() and not self.draining

    def _is_compiled(self) -> bool:
        compiled = self.searches.own.compiled
        return compiled.done() and compiled.exception() is None

    def close(self) -> None:
        """Caption all queued images, and end the threads."""
        self.searches.close()
        self._batcher.close()

    def handler(
        self,
        answer: Callable[[Request, bytes], Awaitable[Response]],
        error: Callable[[str], dict[str, Any]] = lambda message: {"error": message},
    ) -> Handler:
        """Return a handler of requests for captions.

        It reads the body and calls `answer`, within the time of a request and as long as the
        client is there. Every outcome has a status and a message.

        Args:
          answer: `answer(request, body)`; it may raise `Refused` or `InputError`.
          error: the JSON of an error from its message.
        """

        async def handle(request: Request) -> Response:
            began, phase = time.monotonic(), "body"
            try:
                async with asyncio.timeout(self.settings.seconds):
                    self._check_room(1)
                    async with self._bodies.read(request) as body:
                        phase = "captions"
                        self.accepted += 1
                        response = await _while_connected(request, answer(request, body))
                self.answered += 1
                if response.status_code == 200:
                    self.monitor.seconds.observe(time.monotonic() - began)
                return response
            except TimeoutError:
                refused = (
                    Refused(408, "slow_client", "the body did not arrive in time.")
                    if phase == "body"
                    else Refused(
                        504, "deadline", f"no caption within {self.settings.seconds:g} seconds."
                    )
                )
            except TooLarge:
                most = self.settings.body_bytes / (1 << 20)
                refused = Refused(413, "too_large", f"the body has more than {most:g} MB.")
            except Overloaded:
                refused = Refused(503, "overloaded", "too many uploads; try again later.")
            except ClientDisconnect:
                refused = Refused(499, "gone", "the client has gone.")  # nobody reads it
            except InputError as found:
                refused = Refused(422, "invalid", str(found))
            except Refused as found:
                refused = found
            except Exception:
                _LOG.exception("%s failed", request.url.path)
                refused = Refused(500, "bug", "an error of the server; its log has the details.")
            self.answered += phase == "captions"
            self.monitor.failures.labels(refused.kind).inc()
            return JSONResponse(
                error(str(refused)),
                refused.status,
                {"retry-after": "1"} if refused.status == 503 else None,
            )

        return handle

    async def caption(self, images: Sequence[Upload], search: Search) -> list[Captioned]:
        """Caption images, in their order; one that cannot be read has an `error`.

        Raises:
          Refused: the queue is full, or nothing is compiled yet.
        """
        with self._room(len(images)):
            # Shielded: others may wait for the same program.
            await asyncio.shield(asyncio.wrap_future(search.program.compiled))
            futures: list[Future[Captioned]] = []
            try:
                for number, image in enumerate(images, start=1):
                    futures.append(self._batcher.submit(image, number, search))
                return [await asyncio.wrap_future(future) for future in futures]
            finally:
                for future in futures:
                    future.cancel()

    def _check_room(self, images: int) -> None:
        if not self._is_compiled():
            raise Refused(503, "not_ready", "the model is being compiled; try again later.")
        if self._queued + images > self.settings.queue:
            raise Refused(503, "queue_full", "the queue is full; try again later.")

    @contextlib.contextmanager
    def _room(self, images: int) -> Iterator[None]:
        """Take places in the queue."""
        self._check_room(images)
        self._queued += images
        try:
            yield
        finally:
            self._queued -= images

    async def answer_caption(self, request: Request, body: bytes) -> Response:
        """`POST /v1/caption`: an image, or a form with several, one line of JSON for each."""
        options, words = parse_options(request.query_params.multi_items())
        search = self.searches.choose(options, attention=words)
        several = is_multipart(request)
        images = [Upload(body)]
        if several:
            files = await asyncio.to_thread(form_files, request.headers["content-type"], body)
            images = [upload for each in files.values() for upload in each]
        if not images:
            raise InputError("the form has no files.")
        format = JsonLines(words=words)
        results = await self.caption(images, search)
        lines = encoded("".join(map(format.entry, results)))
        if several:
            return Response(lines, media_type="application/x-ndjson")
        is_bad = results[0].error is not None
        if is_bad:
            self.monitor.failures.labels("unreadable").inc()
        return Response(lines, 422 if is_bad else 200, media_type="application/json")


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await the work, or cancel it when the client disconnects.

    Raises:
      ClientDisconnect: the client is gone.
    """

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)
