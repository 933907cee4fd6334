"""Run the application: the socket, the connections, and an orderly shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxcap.messages.errors import InputError
from jaxcap.serving.app import create_app
from jaxcap.serving.service import Service

HEAD_SECONDS = 10.0
"""How long a connection may be without a request, with half of one's head, or with an answer that
its client does not read. Many clients read none before they have sent the whole body."""
_HEAD_BYTES = 16 << 10
_TINY_CHUNKS = 1000
_CHUNK_BYTES = 64
"""The smallest mean size of a body's chunks, if there are more than `_TINY_CHUNKS`."""
_BACKLOG = 2048
"""Connections that the system accepts before the server does."""
_OTHER_FILES = 100
"""Files that a server may have open besides its connections."""
_GRACE = 0.3
"""Seconds in which a stopping server still reads requests that are on their way."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on this address; connections wait until `serve` accepts them.

    Raises:
      InputError: the address is unknown, taken, or not allowed.
    """
    try:
        ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: not an address of this machine ({error}).") from None
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # a restart need not wait for old connections to time out
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        reason = {
            errno.EADDRINUSE: f"--port {port}: another program uses it; give another --port.",
            errno.EACCES: f"--port {port}: not allowed; give a --port from 1024 to 65535.",
            errno.EADDRNOTAVAIL: f"--host {host}: not an address of this machine; give one of its "
            "own, such as 127.0.0.1, or 0.0.0.0 for all.",
        }
        raise InputError(
            reason.get(error.errno or 0, f"--host {host}, --port {port}: {error.strerror}.")
        ) from error
    return bound


def url(bound: socket.socket) -> str:
    """Return the address of the page of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Reader(h11.Connection):
    """A reader that refuses bodies in tiny chunks, which cost much time for few bytes."""

    _chunks = _bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._bytes += len(event.data)
            if self._chunks > _TINY_CHUNKS and self._bytes < _CHUNK_BYTES * self._chunks:
                raise h11.RemoteProtocolError("tiny chunks")
        return event


class _Connection(H11Protocol):
    """A connection that knows how long it has had no request."""

    idle_since = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _Reader(h11.SERVER, _HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        most, self.limit_concurrency = self.config.limit_concurrency, None  # uvicorn counts all
        if most is not None and len(self.connections) > most:
            others = [each for each in self.connections if isinstance(each, _Connection)]
            if idle := [each for each in others if each is not self and each.is_idle()]:
                min(idle, key=lambda each: each.idle_since).transport.abort()
            else:
                self.app_state = {"full": True}

    def is_idle(self) -> bool:
        """Return whether the connection is open and has no request to answer."""
        return not self.is_busy() and not self.transport.is_closing()

    def is_busy(self) -> bool:
        """Return whether a request is being answered, or still arrives after its answer."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return not is_answered or self.conn.their_state is h11.SEND_BODY

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            if self.cycle is not None:  # which must not answer any more
                self.cycle.disconnected = True
            super().send_400_response(msg)
        else:  # it has an answer already
            self.transport.abort()


class Server(uvicorn.Server):
    """A server that closes idle connections, and answers all accepted requests before it stops."""

    def __init__(self, service: Service, *, connections: int = 1000) -> None:
        """Initialise a server.

        Args:
          connections: the maximum number of connections. One more ends the one that has been idle
            for the longest time, or gets status 503 if none is idle.
        """
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http=_Connection,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=connections,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=int(service.settings.seconds) + 5,
            )
        )
        self._service = service

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        ending = asyncio.create_task(self._end_late_connections())
        try:
            await super().serve(sockets)
        finally:
            ending.cancel()

    async def _end_late_connections(self) -> None:
        while True:
            now = asyncio.get_running_loop().time()
            # The head of a request, then the request, then the reading of its answer.
            busy = HEAD_SECONDS + self._service.settings.seconds + HEAD_SECONDS
            for connection in list(self.server_state.connections):
                if isinstance(connection, _Connection):
                    most = busy if connection.is_busy() else HEAD_SECONDS
                    if now - connection.idle_since > most:
                        connection.transport.abort()
            await asyncio.sleep(0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, answer all accepted requests, and close."""
        for server in self.servers:
            server.close()
        self._service.draining = True
        await asyncio.sleep(_GRACE)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM; a second one does not wait for open requests."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.force_exit, self.should_exit = self.should_exit, True

        before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _fitting(connections: int) -> int:
    """Raise the limit of open files if it is too low, and return how many connections fit."""
    if os.name != "posix":
        return connections
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed - _OTHER_FILES)


def serve(
    service: Service,
    bound: socket.socket,
    *,
    connections: int = 1000,
    ready: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGTERM, SIGINT, or a failure to compile; answer all accepted requests.

    Args:
      bound: the socket from `bind`.
      connections: the maximum number of connections.
      ready: called once the model is compiled.

    Raises:
      Exception: the model could not be compiled.
    """
    server = Server(service, connections=_fitting(connections))
    failures: list[BaseException] = []

    def compiled(future: Future[None]) -> None:
        error = future.exception()
        if error is None:
            ready()
        elif not server.should_exit:  # a server that is told to stop compiles nothing more
            failures.append(error)
            server.should_exit = True

    service.searches.compile_own().add_done_callback(compiled)
    try:
        server.run([bound])
    finally:
        service.close()
    if failures:
        raise failures[0]
