"""Read request bodies: count their bytes while they stream, and bound the memory of all."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from starlette.requests import Request

from jaxcap.files.json_data import parse_json
from jaxcap.messages.errors import InputError

MAX_PARTS = 64
"""Maximum number of images in one request."""
_MAX_JSON_VALUES = 10_000
_NAME = 200
_PARAMETER = re.compile(r';\s*([\w-]+\*?)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
"""A parameter of a header: its name, and its value with or without quotes."""


class TooLarge(Exception):
    """A body has more bytes than the server accepts."""


class Overloaded(Exception):
    """There is no room for another request now."""


class Upload(NamedTuple):
    """An image as it was sent, with the interface of an open file.

    Attributes:
      name: the name that the client gave, if any.
    """

    data: bytes
    name: str | None = None

    def read(self) -> bytes:
        """Return the bytes of the image file."""
        return self.data


class BodyReader:
    """Reads bodies, and bounds the memory of all bodies that are being read."""

    def __init__(self, *, max_bytes: int, max_total: int) -> None:
        """Initialise with the largest body, and the largest sum of those held at once."""
        self._max_bytes, self._max_total = max_bytes, max_total
        self._held = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read the body of a request; it counts as held until the context ends.

        Raises:
          TooLarge: it has too many bytes; the rest is not read.
          Overloaded: the bodies of all requests have too many.
          ClientDisconnect: the client is gone.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._max_bytes:
            raise TooLarge
        received, size = bytearray(), 0
        try:
            async for chunk in request.stream():
                if size + len(chunk) > self._max_bytes:
                    raise TooLarge
                if self._held + len(chunk) > self._max_total:
                    raise Overloaded
                received += chunk
                size += len(chunk)
                self._held += len(chunk)
            body = bytes(received)
            received.clear()
            yield body
        finally:
            self._held -= size


def is_multipart(request: Request) -> bool:
    """Return whether the body is a form that was sent with `multipart/form-data`."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "multipart/form-data"


def form_files(content_type: str, body: bytes) -> dict[str, list[Upload]]:
    """Return the files of a `multipart/form-data` body by the names of their fields (RFC 7578).

    The whole body is in memory, so it is split at the boundary in linear time; no parser keeps a
    state that a stranger could confuse.

    Raises:
      InputError: the body is not a complete form, or has more than `MAX_PARTS` parts.
    """
    boundary = _parameters(content_type).get("boundary")
    if not boundary or len(boundary) > 70:  # the limit of RFC 2046
        raise InputError("the multipart form names no boundary of 1 to 70 characters.")
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    _, *parts = (b"\r\n" + body).split(delimiter, MAX_PARTS + 1)
    if not parts or not parts[-1].startswith(b"--"):
        raise InputError(f"the multipart form is cut off, or has more than {MAX_PARTS} parts.")
    files: dict[str, list[Upload]] = {}
    for part in parts[:-1]:
        head, gap, content = part.partition(b"\r\n\r\n")
        if not gap or len(head) > 8192 or head.lstrip(b" \t")[:2] != b"\r\n":
            raise InputError("a part of the multipart form has no header of at most 8 KB.")
        fields = re.sub(r"\r\n[ \t]+", " ", head.decode("utf-8", "replace"))
        found = re.search(r"^content-disposition:(.*)", fields, re.IGNORECASE | re.MULTILINE)
        parameters = _parameters(found[1] if found else "")
        # Forms have no `filename*` (RFC 7578, section 4.2), but some clients send it, in UTF-8.
        _, _, extended = parameters.get("filename*", "").partition("''")
        name = _plain(parameters.get("filename") or unquote(extended))
        files.setdefault(parameters.get("name", ""), []).append(Upload(content, name or None))
    return files


def _parameters(header: str) -> dict[str, str]:
    return {
        name.lower(): plain or re.sub(r'\\(["\\])', r"\1", quoted)
        for name, quoted, plain in _PARAMETER.findall(header)
    }


def _plain(name: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in name)[:_NAME]


def json_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object with a bounded number of values; images in base64 need few.

    Raises:
      InputError: it is not such an object.
    """
    if sum(map(body.count, (b"[", b"{", b","))) > _MAX_JSON_VALUES:
        raise InputError(f"the JSON body has more than {_MAX_JSON_VALUES:,} values.")
    try:
        value = parse_json(body.decode())
    except ValueError as error:
        raise InputError(f"the body is not JSON ({str(error)[:200]}).") from None
    if not isinstance(value, dict):
        raise InputError("the body is not a JSON object.")
    return value


def base64_images(values: Any) -> list[Upload]:
    """Decode the images of a list of base64 texts. Addresses are refused, never fetched.

    Raises:
      InputError: `images` is not a list of base64 strings, or has more than `MAX_PARTS` images.
    """
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_PARTS:
        raise InputError(f"images must be a list of 1 to {MAX_PARTS} images in base64.")
    images = []
    for number, value in enumerate(values, start=1):
        try:
            head, comma, data = value.partition(",")
            if not (comma and head.startswith("data:") and head.endswith(";base64")):
                data = value
            text = data.replace("\r", "").replace("\n", "")  # as Ollama does
            images.append(Upload(base64.b64decode(text.encode("ascii"), validate=True)))
        except (AttributeError, UnicodeEncodeError, binascii.Error):
            raise InputError(
                f"image {number} is not base64; addresses are never fetched."
            ) from None
    return images
