"""Download published files: once, resumable, and verified before use."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxcap.files.local import is_disk_full, locked, no_link, open_file
from jaxcap.messages.errors import InputError
from jaxcap.messages.progress import Display

_TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
_TRIES = 4
"""Attempts in a row that bring no byte, after which the download fails."""
_PAUSE = 1.0
"""Seconds before the second attempt."""
_BLOCK = 1 << 20
_MEGABYTE = 1e6
_MAX_BYTES = 1 << 32
"""VGG-19's weights, the largest, have an eighth of this."""


@dataclass(frozen=True)
class PublishedFile:
    """A file at a public address.

    Attributes:
      address: its URL.
      digest: the algorithm and the hexadecimal digest, or the beginning of it, as the publisher
        gives it: `"sha256:0676ba61"`.
    """

    address: str
    digest: str

    @property
    def name(self) -> str:
        """The name of the file, without the folder."""
        return self.address.rpartition("/")[2]


def fetch(file: PublishedFile, folder: Path) -> Path:
    """Return the file in `folder`, downloaded if it is not there.

    An interrupted download resumes where it stopped, in this process or a later one. Only one
    process downloads; others wait for it.

    Raises:
      InputError: the file cannot be downloaded or written, or its digest is wrong. The message
        gives the address, the digest, and where to put the file.
    """
    path = folder / file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            with open(part, "ab", opener=no_link) as lock:
                locked(lock, lambda: None)
                if not path.exists():
                    _download(file, part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    if not _is_whole(path, file):
        raise InputError(
            f"{path}: damaged or another file: its digest is not {file.digest}…. Delete it "
            "to download it again."
        )
    return path


def _download(file: PublishedFile, part: Path, path: Path) -> None:
    console, tries, before = Console(stderr=True), 0, part.stat().st_size
    while True:
        try:
            _continue(file, part, console)
            break
        except (OSError, http.client.HTTPException, ValueError) as error:
            if is_disk_full(error):
                raise
            size = part.stat().st_size
            tries = 1 if size > before else tries + 1
            before = size
            if tries == _TRIES or _is_final(error):
                raise InputError(_by_hand(file, path, error)) from None
            time.sleep(_PAUSE * 2 ** (tries - 1))
    if not _is_whole(part, file):
        part.unlink()
        raise InputError(_by_hand(file, path, f"it does not have the digest {file.digest}…"))
    os.replace(part, path)


def _is_final(error: Exception) -> bool:
    """Return whether another attempt would fail in the same way."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code < 500
    return isinstance(error, ValueError)


def _continue(file: PublishedFile, part: Path, console: Console) -> None:
    """Append the rest of a file to `part`, or download it afresh if the server cannot do that.

    Raises:
      OSError, http.client.HTTPException: the connection failed or broke; what came is in `part`.
      ValueError: the server redirects to no address, or sends without end.
    """
    done = part.stat().st_size
    request = urllib.request.Request(file.address)
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # all of it is there
    with response, part.open("ab") as output:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
            output.truncate(0)
        total = done + _length(response)
        with Display(console, file.name, total=round(total / _MEGABYTE)) as display:
            while block := response.read(_BLOCK):
                output.write(block)
                done += len(block)
                if done > _MAX_BYTES:
                    output.truncate(0)
                    raise ValueError(f"the server sends more than {_MAX_BYTES:,} bytes")
                display.update(round(done / _MEGABYTE), "MB")
    if done < total:
        raise http.client.IncompleteRead(b"", total - done)


def _length(response: Any) -> int:
    given = response.headers.get("Content-Length") or ""
    return int(given) if given.isdecimal() and len(given) < 20 else 0


def _is_whole(path: Path, file: PublishedFile) -> bool:
    algorithm, _, expected = file.digest.partition(":")
    with open_file(path) as opened:
        return hashlib.file_digest(opened, algorithm).hexdigest().startswith(expected)


def _by_hand(file: PublishedFile, path: Path, reason: object) -> str:
    algorithm, _, digest = file.digest.partition(":")
    # The text of a URLError has brackets around the reason.
    why = reason.reason if type(reason) is urllib.error.URLError else reason
    return (
        f"{file.address}: cannot be downloaded: {why}. Download it elsewhere, check that its "
        f"{algorithm.upper()} begins with {digest}, and put it at {path}."
    )
