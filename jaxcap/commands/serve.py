"""`jaxcap serve`: caption photographs over HTTP, with a page for people."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from jaxcap.commands.search_options import SearchGroup, SearchOptions, given_search
from jaxcap.config.options import Bounds, Count, Positive
from jaxcap.messages.errors import InputError

_BOUNDS: dict[str, Bounds] = {
    "port": Bounds(0, 65_535),
    "batch_size": Count(1024),
    "window": Bounds(0, 1000),
    "queue": Count(100_000),
    "timeout": Positive(3600),
    "max_body": Positive(1024),
    "max_pixels": Positive(1000),
    "max_beams": Count(10_000),
    "searches": Count(1000),
    "connections": Count(100_000),
}


@dataclass(frozen=True)
class ServeArguments:
    """Caption photographs over HTTP, with a page.

    Open the address that it prints, or send an image:

        jaxcap serve
        curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/caption

    /docs lists the addresses, among them those of IBM's image caption generator and of Ollama.
    Ctrl-C and SIGTERM answer the open requests first.
    """

    model: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Directory of a run, or a published model. Several, each with its own --model, form an
    ensemble. Default: the model in the package."""
    host: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for the whole network."""
    port: int = 8000
    """Port to listen on; 0: any free one."""
    token: str | None = None
    """Answer only clients that send "Authorization: Bearer TOKEN". Prefer $JAXCAP_TOKEN: other
    users of the machine can see the command line."""
    allow_origin: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="URL")
    ] = ()
    """A site whose pages may use the server, such as https://example.org; repeatable."""
    batch_size: int = 16
    """Maximum number of images captioned at once. Programs for 1, 2, 4, … up to this are
    compiled."""
    window: float = 5.0
    """Maximum time in milliseconds that an image waits for others that are being decoded."""
    queue: int = 128
    """Maximum number of waiting images; more get status 503."""
    timeout: float = 30.0
    """Maximum time in seconds from the start of a request to its answer."""
    max_body: float = 20.0
    """Maximum size of a request, in MB."""
    max_pixels: float = 50.0
    """Maximum size of an image, in millions of pixels."""
    max_beams: int = 64
    """Maximum number of beams or samples per request; each required word doubles the beams."""
    searches: int = 16
    """Maximum number of combinations of search options to compile for requests."""
    connections: int = 1000
    """Maximum number of connections. Beyond it, a new one ends an idle one, or gets status 503."""
    search: SearchGroup = field(default_factory=SearchOptions)


def run(arguments: ServeArguments, console: Console) -> int:
    """Serve until the process is told to stop."""
    for name, bounds in _BOUNDS.items():
        if not bounds.accept(value := getattr(arguments, name)):
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is {value}; it must be {bounds}.")
    token = os.environ.get("JAXCAP_TOKEN") if arguments.token is None else arguments.token
    if token is not None and not re.fullmatch("[!-~]+", token):  # "" would let everybody in
        name = "$JAXCAP_TOKEN" if arguments.token is None else "--token"
        found = "has other characters" if token else "is empty"
        raise InputError(f"{name} {found}; give printable ASCII characters without spaces.")
    for origin in arguments.allow_origin:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#*\s]+", origin):
            raise InputError(
                f"--allow-origin is {origin}; expected a scheme and a host without a path, such as "
                "https://example.org."
            )
    try:
        from jaxcap.serving import running
        from jaxcap.serving.service import Service, Settings
    except ImportError as error:
        raise InputError(f"jaxcap serve needs {error.name}: pip install 'jaxcap[serve]'") from error
    from jaxcap.captioning.loaded_model import load
    from jaxcap.storage.packaged import packaged

    bound = running.bind(arguments.host, arguments.port)  # before the model: quick to fail
    with bound:
        model = load(*(arguments.model or (packaged(),)))
        if options := given_search(arguments.search):
            model = model.with_search(**options)
        service = Service(
            model,
            Settings(
                sizes=_sizes(arguments.batch_size),
                window=arguments.window / 1000,
                threads=os.cpu_count() or 1,
                queue=arguments.queue,
                seconds=arguments.timeout,
                body_bytes=int(arguments.max_body * (1 << 20)),
                total_bytes=max(512 << 20, int(4 * arguments.max_body * (1 << 20))),
                pixels=int(arguments.max_pixels * 1e6),
                searches=arguments.searches,
                beams=arguments.max_beams,
                token=token,
                origins=arguments.allow_origin,
            ),
        )
        address = running.url(bound)
        is_local = ipaddress.ip_address(bound.getsockname()[0]).is_loopback
        if not is_local and token is None:
            console.print(
                f"Anyone who can reach {address} can use it; restrict access with --token.",
                soft_wrap=True,
            )
        logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
        # Strangers' malformed requests are no news.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        console.print(f"Compiling {model.config.encoder.name} and {model.config.decoder.name}…")
        running.serve(
            service,
            bound,
            connections=arguments.connections,
            ready=lambda: console.print(f"Ready: {address}", soft_wrap=True),
        )
    console.print(f"Stopped: {service.answered} of {service.accepted} requests answered")
    return 0


def _sizes(largest: int) -> tuple[int, ...]:
    """Return the powers of two below a size, and the size."""
    return (*(1 << n for n in range(largest.bit_length()) if 1 << n < largest), largest)
