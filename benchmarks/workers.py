"""Run processes in turns, so that other load affects all of them equally."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any


class Worker:
    """A process that holds an object; the parent calls its methods."""

    def __init__(self, kind: type) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, self._other = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._other, kind), daemon=True)

    def __enter__(self) -> Worker:
        self._process.start()
        self._other.close()  # so that its end is noticed
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()  # the process then ends of itself, and tidies up
        self._process.join(timeout=20)
        self._process.kill()

    def ask(self, method: str, *arguments: Any) -> Any:
        try:
            self._connection.send((method, arguments))
            return self._connection.recv()
        except (EOFError, BrokenPipeError):
            raise SystemExit(f"{method}: the other process failed; its error is above") from None


def _serve(connection: Connection, kind: type) -> None:
    served = kind()
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        connection.send(getattr(served, method)(*arguments))
