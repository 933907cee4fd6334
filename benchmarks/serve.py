"""Measure `jaxcap serve`, and try to break it.

    python benchmarks/serve.py                          # throughput and latency
    python benchmarks/serve.py --load 10000             # load, bad requests, and a restart
    python benchmarks/serve.py --mutated 10000          # damaged requests

Throughput: 32 clients send photographs to a server that batches and to one that captions one image
at a time, in turns, which also gives the processor time per image of each server. Latency: one
client against calls of the model in this process, in turns.

Load: 64 clients, of whose requests 5 % are bad. In the middle, the server gets a SIGTERM and is
started again; clients try again where nobody answers, as they do behind any proxy. Every good
request must get the caption that `jaxcap caption` writes, every bad one its status, and memory must
not grow. The images are small: what counts is the server.

Mutated: valid requests of all addresses with damaged bytes. The server must answer or close each
connection, caption afterwards as before, and log no traceback.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import jax
import tyro
from PIL import Image

from jaxcap.captioning.loaded_model import LoadedModel, load
from jaxcap.config import Config, DataConfig, DecoderConfig, EncoderConfig, SearchConfig
from jaxcap.data.image_paths import images_below
from jaxcap.model.captioner import create_captioner, init_variables
from jaxcap.storage import published
from jaxcap.storage.packaged import packaged
from jaxcap.storage.trained import TrainedCaptioner
from jaxcap.text.vocabulary import SPECIALS, Vocabulary

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "fuzz"))


@dataclass(frozen=True)
class Arguments:
    """Time a server, or try to break it."""

    run: Path | None = None
    """A trained run. By default the model in the package; for --load and --mutated, a tiny one."""
    photographs: Path = ROOT / "examples"
    """A folder of photographs."""
    clients: int = 32
    turns: int = 5
    images: int = 64
    """Images of each turn."""
    load: int = 0
    """Requests of a load test."""
    mutated: int = 0
    """Damaged requests."""


def main(arguments: Arguments) -> int:
    """Print what was measured; return 1 if the server failed."""
    images = [path.read_bytes() for path in images_below(arguments.photographs)]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.load or arguments.mutated:
            model = arguments.run or write_tiny_model(Path(folder) / "tiny.safetensors")
            faults: list[str] = []
            if arguments.load:
                faults += load_test(model, images, requests=arguments.load)
            if arguments.mutated:
                faults += mutated_test(model, images[0], tries=range(arguments.mutated))
            print("\n".join(faults[:20]) or "no fault")
            return 1 if faults else 0
        measure(arguments, arguments.run or packaged(), images)
    return 0


def write_tiny_model(path: Path) -> Path:
    """Write a captioner with random weights that takes little time, and return its path."""
    config = Config(
        data=DataConfig(image_size=32),
        encoder=EncoderConfig(name="resnet_small"),
        decoder=DecoderConfig(hidden_size=16, embedding_size=8, attention_size=8),
        search=SearchConfig(beam_size=2, min_length=3, max_length=5),
    )
    vocabulary = Vocabulary((*SPECIALS, *(f"word{n}" for n in range(50))))
    variables = init_variables(
        create_captioner(config, len(vocabulary)), jax.random.key(0), image_size=32
    )
    # Larger parameters, so that different images have different captions.
    variables["params"] = jax.tree.map(lambda x: 3 * x, variables["params"])
    published.write(TrainedCaptioner(path, config, vocabulary, variables, 0), path)
    return path


# Servers and clients


@dataclass
class Process:
    """A server in a process of its own."""

    port: int
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def stop(self) -> str:
        """Send SIGTERM, wait, and return all that the server printed."""
        self.process.send_signal(signal.SIGTERM)
        self.lines += self.process.communicate(timeout=120)[1].splitlines()
        return "\n".join(self.lines)

    def processor_seconds(self) -> float:
        """Return the time that the processors have spent on the server."""
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return sum(map(int, status.rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> float:
        """Return the resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def start(model: Path, *options: str, port: int = 0) -> Process:
    """Start a server and wait until it is ready."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "jaxcap", "serve", "--model", str(model)),
            *("--port", str(port), *options),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "1000"},
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip())
        if line.startswith("Ready: "):
            return Process(int(line.rstrip().rstrip("/").rpartition(":")[2]), process, lines)
    raise RuntimeError("the server did not start:\n" + "\n".join(lines))


class Client:
    """A client with one connection, which it opens again when the server closes it."""

    def __init__(self, port: int) -> None:
        """Initialise for a port of this machine."""
        self._port = port
        self._connection: http.client.HTTPConnection | None = None
        self.retries = 0

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body; for ten minutes, try again where nothing answers or with 503."""
        until = time.monotonic() + 600
        while True:
            try:
                if self._connection is None:
                    self._connection = http.client.HTTPConnection("127.0.0.1", self._port, 60)
                self._connection.request("POST", path, body)
                answer = self._connection.getresponse()
                status, content = answer.status, answer.read()
                if status != 503:
                    return status, content
            except (OSError, http.client.HTTPException):
                self.close()
            if time.monotonic() > until:
                raise TimeoutError("no answer")
            self.retries += 1
            time.sleep(0.1)


# Throughput and latency


def measure(arguments: Arguments, model: Path, images: Sequence[bytes]) -> None:
    """Print throughput with and without batches, and latency with and without a server."""
    loaded = load(model)
    servers = {"batches": start(model), "one at a time": start(model, "--batch-size", "1")}
    rates: dict[str, list[float]] = {name: [] for name in servers}
    spent = {name: -server.processor_seconds() for name, server in servers.items()}
    for turn in range(arguments.turns):
        for name in list(servers) if turn % 2 == 0 else list(servers)[::-1]:
            rates[name].append(_throughput(servers[name].port, images, arguments))
    for name, turns in rates.items():
        shown = ", ".join(f"{rate:.1f}" for rate in turns)
        used = spent[name] + servers[name].processor_seconds()
        each = 1000 * used / (arguments.turns * arguments.images)
        print(
            f"{name}: median {statistics.median(turns):.1f} images/s (of {shown}), {each:.1f} ms "
            "of processor time an image"
        )
    _print_ratios("batches relative to one at a time", rates["batches"], rates["one at a time"])

    client = Client(servers["batches"].port)
    ways: dict[str, Callable[[bytes], object]] = {
        "the model": lambda image: loaded.caption_batch(
            [loaded.read(image)], batch_size=1, attention=False
        ),
        "the server": lambda image: client.post("/v1/caption", image),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(images[0])
    for turn in range(arguments.turns * 10):
        image = images[turn % len(images)]
        for name in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
            began = time.perf_counter()
            ways[name](image)
            seconds[name].append(time.perf_counter() - began)
    for name, turns in seconds.items():
        print(f"one client, {name}: median {1000 * statistics.median(turns):.1f} ms")
    _print_ratios("the server relative to the model", seconds["the server"], seconds["the model"])
    for server in servers.values():
        server.stop()


def _throughput(port: int, images: Sequence[bytes], arguments: Arguments) -> float:
    clients = threading.local()

    def send(number: int) -> None:
        if not hasattr(clients, "own"):
            clients.own = Client(port)
        status, _ = clients.own.post("/v1/caption", images[number % len(images)])
        assert status == 200

    with ThreadPoolExecutor(arguments.clients) as pool:
        began = time.perf_counter()
        list(pool.map(send, range(arguments.images)))
        return arguments.images / (time.perf_counter() - began)


def _print_ratios(name: str, first: Sequence[float], second: Sequence[float]) -> None:
    ratios = sorted(a / b for a, b in zip(first, second, strict=True))
    print(
        f"{name}: of the medians {statistics.median(first) / statistics.median(second):.2f}, "
        f"median of the pairs {statistics.median(ratios):.2f}"
    )


# Load


BAD: tuple[tuple[str, Callable[[bytes], bytes], int], ...] = (
    ("/v1/caption", lambda image: image[: len(image) // 3], 422),
    ("/v1/caption", lambda image: b"<html>" + image, 422),
    ("/v1/caption", lambda image: b"", 422),
    ("/v1/caption", lambda image: bytes(21 << 20), 413),
    ("/v1/caption?beam_size=0", lambda image: image, 422),
    ("/v1/caption?ban=no-such-word", lambda image: image, 422),
    ("/api/generate", lambda image: b'{"images": ["http://127.0.0.1/"]}', 422),
    ("/model/predict", lambda image: image, 422),
)
"""Bad requests: an address, what becomes of an image, and the status that it must get."""


def load_test(
    model: Path, images: Sequence[bytes], *, requests: int, clients: int = 64, bad: float = 0.05
) -> list[str]:
    """Send many requests, with a restart in the middle, and return what went wrong."""
    loaded = load(model)
    images = [_small(image) for image in images[:16]]
    expected = [_texts(loaded, image) for image in images]
    assert len({tuple(each) for each in expected}) > len(images) // 2, "captions are alike"
    server = start(model, "--batch-size", "16")
    done = 0
    memory: dict[int, float] = {}
    faults: list[str] = []
    statuses: Counter[int] = Counter()
    lock, local = threading.Lock(), threading.local()
    everybody: list[Client] = []
    restart = threading.Thread(target=lambda: None)

    def send(number: int) -> None:
        nonlocal done
        if not hasattr(local, "client"):
            local.client = Client(server.port)
            everybody.append(local.client)
        rng = random.Random(number)
        which = rng.randrange(len(images))
        path, damage, right = "/v1/caption", None, 200
        if rng.random() < bad:
            path, damage, right = rng.choice(BAD)
        body = images[which] if damage is None else damage(images[which])
        try:
            status, content = local.client.post(path, body)
        except TimeoutError:
            status, content = 0, b""
        texts = expected[which]
        if status == 200 == right:
            texts = [each["caption"] for each in json.loads(content)["captions"]]
        with lock:
            done += 1
            statuses[status] += 1
            if status != right or texts != expected[which]:
                faults.append(f"request {number} to {path}: {status}, {content[:200]!r}")
            if done in milestones:
                with contextlib.suppress(OSError, IndexError):  # just between two servers
                    memory[done] = server.megabytes()
                if done == half:
                    restart_server()

    def restart_server() -> None:
        nonlocal restart
        restart = threading.Thread(target=again)
        restart.start()

    def again() -> None:
        nonlocal server
        printed.append(server.stop())
        server = start(model, "--batch-size", "16", port=server.port)

    printed: list[str] = []
    half = requests // 2
    milestones = {requests * n // 10 for n in range(1, 11)}
    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(send, range(requests)))
    spent = time.monotonic() - began
    restart.join()
    for each in everybody:
        each.close()
    printed.append(server.stop())
    for text in printed:
        last = text.splitlines()[-1]
        answered = [int(word) for word in last.split() if word.isdigit()]
        if len(answered) != 2 or answered[0] != answered[1] or "Traceback" in text:
            faults.append(f"the server printed: {text}")
        print(f"a server's last line: {last}")
    print(
        f"{requests} requests from {clients} clients in {spent:.0f} s, statuses "
        f"{dict(sorted(statuses.items()))}, {sum(each.retries for each in everybody)} tried again"
    )
    print("MB of the server: " + ", ".join(f"{memory[n]:.0f} after {n}" for n in sorted(memory)))
    return faults


def _texts(model: LoadedModel, image: bytes) -> list[str]:
    (result,) = model.caption([image], batch_size=1)
    return [caption.text for caption in result.captions]


# Mutated requests


def mutated_test(model: Path, image: bytes, *, tries: range) -> list[str]:
    """Send damaged requests, and return what went wrong."""
    from mutation import mutate

    server = start(model, "--batch-size", "1", "--timeout", "10")
    small = _small(image)
    client = Client(server.port)
    right = client.post("/v1/caption", small)
    client.close()
    faults: list[str] = []
    outcomes: Counter[str] = Counter()
    seeds = list(_requests(small))
    slowest = 0.0

    def attempt(number: int) -> None:
        nonlocal slowest
        rng = random.Random(number)
        data = mutate(rng.choice(seeds), rng)
        began = time.monotonic()
        outcome = _send(server.port, data)
        slowest = max(slowest, time.monotonic() - began)
        outcomes[outcome] += 1
        if outcome == "500":
            faults.append(f"request {number}: {outcome}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attempt, tries))
    if client.post("/v1/caption", small) != right:
        faults.append("the server captions otherwise than before")
    client.close()
    printed = server.stop()
    if "Traceback" in printed or "of" not in printed.splitlines()[-1]:
        faults.append(printed)
    print(
        f"{len(tries)} damaged requests, the slowest {slowest:.1f} s: "
        f"{dict(outcomes.most_common())}"
    )
    return faults


def _small(image: bytes) -> bytes:
    """Return an image that takes little time to decode."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(image)) as whole:
        whole.convert("RGB").resize((64, 64)).save(file, "PNG")
    return file.getvalue()


def _requests(image: bytes) -> Iterator[bytes]:
    """Yield valid requests of all addresses."""
    part = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    form = part + image + b"\r\n--B--\r\n"
    generate = json.dumps({"model": "m", "images": [base64.b64encode(image).decode()]}).encode()
    kind = b"Content-Type: multipart/form-data; boundary=B\r\n"
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(image), image)
    for path, headers, body in (
        (b"/v1/caption?n_best=1&words=true", b"", image),
        (b"/v1/caption", kind, form),
        (b"/model/predict", kind, form),
        (b"/api/generate", b"Content-Type: application/json\r\n", generate),
    ):
        length = b"Content-Length: %d\r\n" % len(body)
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" % path
        yield head + headers + length + b"\r\n" + body
    head = b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    yield head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked
    for path in (b"/", b"/docs", b"/openapi.json", b"/metrics", b"/v2/health/ready"):
        yield b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path


def _send(port: int, data: bytes) -> str:
    """Send bytes, and return the status of the answer, or how the connection ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(data)
            # The server waits for the rest of half a request; a client need not.
            connection.settimeout(1)
            answer = connection.recv(65536)
        except TimeoutError:
            return "left"
        except OSError:
            return "reset"
        return answer[9:12].decode("ascii", "replace") if answer else "closed"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
