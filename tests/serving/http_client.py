"""A server in a thread, and a client with plain sockets."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from jaxcap.captioning.loaded_model import LoadedModel
    from jaxcap.serving.service import Service, Settings


def picture(seed: int = 0, format: str = "PNG", side: int = 40) -> bytes:
    """Return an image file of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((side, side)).save(file, format)
    return file.getvalue()


def form(*files: tuple[str, bytes], field: str = "image") -> tuple[bytes, str]:
    """Return the body and the content type of a form with files."""
    boundary = "xYzZY"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), (
        f"multipart/form-data; boundary={boundary}"
    )


@dataclass
class Answer:
    """What the server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Client:
    """Sends requests to a server in a thread of this process."""

    port: int
    service: Service
    stop: Callable[[], None]

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a request on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(connection):
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return Answer(
                answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
            )

    def metric(self, name: str) -> float:
        """Return a value of /metrics; 0 for one that is not there yet."""
        lines = self("GET", "/metrics").body.decode().splitlines()
        return float(next((line.split()[-1] for line in lines if line.startswith(name + " ")), 0))


@contextlib.contextmanager
def running(
    model: LoadedModel, settings: Settings, *, connections: int = 100, compiled: bool = True
) -> Iterator[Client]:
    """Serve a model from a thread."""
    from jaxcap.serving import running
    from jaxcap.serving.service import Service

    service = Service(model, settings)
    bound = running.bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    server = running.Server(service, connections=connections)
    if compiled:
        service.searches.compile_own().result()
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def stop() -> None:
        server.should_exit = True
        thread.join()

    try:
        yield Client(port, service, stop)
    finally:
        stop()
        service.close()
