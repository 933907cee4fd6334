"""`jaxcap serve`: what it refuses to start with, and the commands of the Dockerfile."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from jaxcap.commands.serve import ServeArguments, run
from jaxcap.messages.errors import InputError

ROOT = Path(__file__).parents[2]


def refused(**options: Any) -> str:
    """Return why `jaxcap serve` does not start."""
    with pytest.raises(InputError) as error:
        run(ServeArguments(**options), Console(quiet=True))
    return str(error.value)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = refused(port=port)
    assert message == f"--port {port}: another program uses it; give another --port."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "no.such.host.invalid"}, "--host no.such.host.invalid: not an address"),
        ({"host": "192.0.2.1"}, "--host 192.0.2.1: not an address of this machine"),
        ({"host": "a" * 300}, "not an address of this machine"),
        ({"port": 65_536}, "--port is 65536; it must be at least 0 and at most 65535"),
        ({"queue": 0}, "--queue is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"timeout": 0.0}, "--timeout is 0.0"),
        ({"token": "two words"}, "--token has other characters"),
        ({"token": "s\u00e9cret"}, "--token has other characters"),
        ({"token": "line\n"}, "--token has other characters"),
        ({"token": ""}, "--token is empty"),
        ({"allow_origin": ("https://friend.example/",)}, "expected a scheme and a host without a"),
        ({"allow_origin": ("*",)}, "--allow-origin is *; expected"),
        ({"port": 0, "model": (Path("runs/missing"),)}, "runs/missing: no such run"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    assert message in refused(**options)


def test_a_port_without_permission_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: socket.socket, address: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    assert refused(port=80) == "--port 80: not allowed; give a --port from 1024 to 65535."


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("jaxcap.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'jaxcap[serve]'" in refused()


@pytest.mark.slow
def test_a_model_that_does_not_fit_stops_the_server(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxcap.model import cost

    monkeypatch.setattr(cost, "memory_bytes", lambda: 1000)
    message = refused(port=0, model=(tiny_run,), batch_size=1)
    assert "takes at least" in message
    assert "Give a smaller batch" in message


def _instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


@pytest.mark.slow
def test_the_commands_of_the_dockerfile_serve(tiny_run: Path, tmp_path: Path) -> None:
    """Each COPY and RUN in plain folders, the entry point, the health check, and SIGTERM."""
    packages, port = tmp_path / "packages", free_port()
    environment = {
        **os.environ,
        # Without a network: with the build tools and the libraries that are installed here.
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_TARGET": str(packages),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONPATH": str(packages),
        "PATH": f"{packages}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    source, commands = ROOT, {}
    copied = []
    for name, rest in _instructions(ROOT / "Dockerfile"):
        here = rest.replace("/wheels", str(tmp_path / "wheels"))
        if name == "WORKDIR":
            (tmp_path / "src").mkdir()
        elif name == "COPY" and not rest.startswith("--from"):
            *files, target = rest.split()
            for file in files:
                to = tmp_path / "src" / target
                if (ROOT / file).is_dir():
                    shutil.copytree(source / file, to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source / file, to)
            copied += files
        elif name == "RUN":
            subprocess.run(here, shell=True, check=True, cwd=tmp_path / "src", env=environment)
        elif name == "ENV":
            environment |= dict(each.split("=") for each in shlex.split(rest))
        elif name in ("HEALTHCHECK", "ENTRYPOINT"):
            commands[name] = json.loads(rest[rest.index("[") :].replace("8000", str(port)))
    allowed = (ROOT / ".dockerignore").read_text()
    assert all(f"!{file}\n" in allowed for file in copied)

    process = subprocess.Popen(
        [
            *commands["ENTRYPOINT"],
            *("--model", str(tiny_run), "--port", str(port), "--batch-size", "1"),
        ],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 300
        health = [sys.executable, *commands["HEALTHCHECK"][1:]]
        while subprocess.run(health, stderr=subprocess.DEVNULL, check=False).returncode:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until
            time.sleep(1)
        Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/caption", (tmp_path / "red.png").read_bytes()
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["captions"]
    finally:
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=120)[1]
    assert process.returncode == 0
    assert "Anyone who can reach http://0.0.0.0:" in printed
    assert printed.splitlines()[-1] == "Stopped: 1 of 1 requests answered"
