"""Run `jaxcap` commands as forks of one process that has imported jaxcap, which takes seconds.

    with serving(environment) as command:
        subprocess.run([*command, "caption", "photo.jpg"])

A command has its caller's folder, environment, standard input and outputs. Variables that libraries
read as they are imported are those of `serving`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield the beginning of a command line, to be followed by the arguments of `jaxcap`."""
    # Addresses of sockets are short.
    with tempfile.TemporaryDirectory(prefix="jaxcap") as folder:
        address = str(Path(folder) / "socket")
        server = subprocess.Popen(
            [sys.executable, __file__, "serve", address], env=environment, stdout=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield [sys.executable, "-S", "-E", __file__, "ask", address]
        finally:
            server.terminate()
            server.communicate()


def ask(address: str, arguments: list[str]) -> int:
    """Have the server run a command, and return its exit status."""
    asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(asked).encode() + b"\n"], [0, 1, 2])
        return int(connection.recv(16))


def serve(address: str) -> None:
    """Import all of jaxcap, then run commands, one after the other."""
    import gc
    import importlib
    import pkgutil

    import jaxcap

    gc.set_threshold(100_000, 20, 20)  # as in the tests
    for module in pkgutil.walk_packages(jaxcap.__path__, "jaxcap."):
        importlib.import_module(module.name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            with connection:
                message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
                while not message.endswith(b"\n"):
                    message += connection.recv(1 << 20)
                pid = os.fork()
                if pid == 0:
                    _run(json.loads(message), files)
                for file in files:
                    os.close(file)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                connection.sendall(str(status if status >= 0 else 128 - status).encode())


def _run(asked: dict[str, Any], files: list[int]) -> None:
    """Run a command in this process, a fork, and end it."""
    status = 1
    try:
        from jaxcap.commands import cli

        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["jaxcap", *asked["arguments"]]
        cli.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _, what, address, *arguments = sys.argv
    sys.exit(ask(address, arguments) if what == "ask" else serve(address))
