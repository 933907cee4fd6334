"""Run the application: the socket, the connections, and an orderly end."""

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

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxcap.errors import InputError
from jaxcap.serving.app import create_app
from jaxcap.serving.service import Service

HEAD_SECONDS = 10.0
"""How long a connection may be without a request, or with half of one's head."""
_HEAD_BYTES = 16 << 10
_BACKLOG = 2048
"""Connections that the system accepts before the server does."""
_GRACE = 0.3
"""Seconds in which a stopping server still reads requests that are on their way."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at this address; connections wait until somebody serves them.

    Raises:
      InputError: the address is unknown, taken, or not allowed.
    """
    try:
        ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: no address of this machine ({error}).") from None
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
            errno.EADDRNOTAVAIL: f"--host {host}: no address of this machine; give one of its own, "
            "such as 127.0.0.1, or 0.0.0.0 for all.",
        }
        raise InputError(
            reason.get(error.errno or 0, f"--host {host}, --port {port}: {error.strerror}.")
        ) from error
    return bound


def url(bound: socket.socket) -> str:
    """Return the address of the page of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Connection(H11Protocol):
    """A connection that knows how long it has had no request."""

    idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.idle_since = self.loop.time()

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def abort_if_idle(self, now: float) -> None:
        """Abort the connection if its request has not come, or its answer is not read, for long."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and now - self.idle_since > HEAD_SECONDS:
            self.transport.abort()


class Server(uvicorn.Server):
    """A server that ends connections without requests, and loses none of the others at its end."""

    def __init__(self, service: Service, *, connections: int = 1000) -> None:
        """Initialise a server.

        Args:
          connections: the most connections; more get a 503.
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
                h11_max_incomplete_event_size=_HEAD_BYTES,
                limit_concurrency=connections,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=int(service.settings.seconds) + 5,
            )
        )
        self._service = service

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections, ten times a second."""
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, _Connection):
                connection.abort_if_idle(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, answer what was accepted, and close."""
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


def serve(
    service: Service,
    bound: socket.socket,
    *,
    connections: int = 1000,
    ready: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGTERM, SIGINT, or a failure to compile the model; answer what was accepted.

    Args:
      bound: what `bind` returned.
      connections: the most connections.
      ready: called once the model is compiled.

    Raises:
      Exception: why the model could not be compiled.
    """
    server = Server(service, connections=connections)

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
