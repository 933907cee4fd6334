"""Read images in threads, ahead of the device."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from PIL import Image

from jaxcap.config.local_paths import local_path
from jaxcap.data.image_files import MAX_FILE_BYTES
from jaxcap.data.images import decode, resize
from jaxcap.messages.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class OpenFile(Protocol):
    """A file opened for reading bytes, or anything else with its `read`."""

    def read(self) -> bytes:
        """Return the rest of the file."""


_Decodable = Path | bytes | Image.Image | np.ndarray
_Bytes = bytes | bytearray | memoryview
ImageLike = _Decodable | _Bytes | str | OpenFile
"""A path, the bytes of an image file, an open file, a Pillow image, or pixels uint8 `[H, W, 3]`."""

_POLL_SECONDS = 0.02
"""How long to wait for the next image before reporting that it is not ready."""


@dataclass(frozen=True)
class ReadImage:
    """An image resized for each model, or the reason why it could not be read.

    Attributes:
      source: the path, bytes, Pillow image or array that was read; None on error.
      pixels: uint8 `[S, S, 3]` for each model, S being that model's size; empty on error.
    """

    name: str
    source: Path | bytes | Image.Image | np.ndarray | None = None
    pixels: tuple[np.ndarray, ...] = ()
    error: str | None = None


def is_image(value: object) -> bool:
    """Return whether a value is a single `ImageLike`, rather than an iterable of them."""
    if isinstance(value, np.ndarray):
        return value.ndim <= 3
    return isinstance(value, str | os.PathLike | _Bytes | Image.Image | OpenFile)


def read_image(
    image: Any, number: int, *, sizes: Sequence[int], max_pixels: int | None = None
) -> ReadImage:
    """Decode an image and resize it to each of `sizes`.

    Args:
      image: an `ImageLike`; anything else gives a `ReadImage` with an error, and so does an address
        such as https://…. `~` is expanded in a string.
      number: names an image that has no path.
      max_pixels: as of `decode`.
    """
    source: Any = Path(os.fsdecode(image)) if isinstance(image, os.PathLike) else image
    try:
        source = local_path(source) if isinstance(source, str) else source
    except InputError as error:
        return ReadImage(image, error=str(error))
    name = str(source) if isinstance(source, Path) else f"image {number}"
    if isinstance(source, OpenFile):
        # Images in tar and Parquet files have names; so do open files.
        given = getattr(source, "name", None)
        name = given if given and isinstance(given, str) else name  # gzip's is ""
        try:
            source = _content(source, name)
        except InputError as error:
            return ReadImage(name, error=str(error))
        except Exception as error:  # files in archives and from the network raise nearly anything
            return ReadImage(name, error=f"{name}: cannot be read: {str(error) or repr(error)}")
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    if not isinstance(source, _Decodable):
        found = type(source).__name__
        return ReadImage(name, error=f"{name}: expected a path, bytes or pixels, found {found}")
    try:
        # JPEGs may be decoded at a fraction of their size, which is ten times faster. At twice
        # the model's size or more, that changes the pixels by a quarter of a step of 255.
        array = decode(source, name=name, size=2 * max(sizes), max_pixels=max_pixels)
    except InputError as error:
        return ReadImage(name, error=str(error))
    resized = {size: resize(array, size) for size in sizes}
    return ReadImage(name, source, tuple(resized[size] for size in sizes))


def _content(file: OpenFile, name: str) -> Any:
    if not isinstance(file, io.BufferedIOBase):
        return file.read()
    # A file in an archive may expand to any size, and one from the network may never end.
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{name}: more than {MAX_FILE_BYTES:,} bytes")
    return data


@contextlib.contextmanager
def read_ahead(
    images: Iterable[T], read: Callable[[T, int], R], *, threads: int, ahead: int
) -> Iterator[Iterator[R | None]]:
    """Iterate over the results of `read`, in order, computed in threads.

    The iterator yields None while the next result is not ready.

    Args:
      read: `read(image, number)`, called in several threads.
      ahead: the largest number of images taken from `images` but not yet yielded.

    Raises:
      Exception: whatever the iterator `images` raised, after the results of the images before.
    """
    room, stop = threading.Semaphore(ahead), threading.Event()
    results: queue.SimpleQueue[Future[R] | None] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    failure: list[BaseException] = []

    def take() -> None:
        try:
            numbered = enumerate(images)
            while room.acquire() and not stop.is_set():
                number, image = next(numbered, (None, None))
                if number is None:
                    break
                results.put(pool.submit(read_unless_stopped, cast(T, image), number))
        except BaseException as error:  # raised again in the caller's thread
            failure.append(error)
        finally:
            results.put(None)

    # `cancel_futures` would fail if the generator is dropped while Python exits.
    def read_unless_stopped(image: T, number: int) -> R:
        if stop.is_set():
            raise futures.CancelledError
        return read(image, number)

    def give() -> Iterator[R | None]:
        while True:
            try:
                result = results.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                yield None
                continue
            if result is None:
                return
            while not futures.wait([result], timeout=_POLL_SECONDS).done:
                yield None
            room.release()
            yield result.result()

    # A daemon thread: an iterator that blocks forever must not keep the program from exiting.
    threading.Thread(target=take, daemon=True, name="take").start()
    try:
        yield give()
    finally:
        stop.set()
        room.release()
        pool.shutdown(wait=False)
    if failure:
        raise failure[0]
