"""Features of a split on disk: computed in chunks, checked by checksum, read by memory map.

    ROOT/LABEL-KEY/
      manifest.json   what the features depend on, in clear text; KEY is its digest
      features.bin    float32 [images, P, D], one image after the other, no header
      chunks.jsonl    a line for each chunk of images that is done: its number and its CRC-32
      lock            held while chunks are checked and computed

One rule covers an extraction that was killed, a disk that was full, a file that was cut short
and a bit that flipped: *a chunk is done when its bytes have the checksum that was noted after
they were written*. Any other is computed, as if for the first time. So nothing depends on the
order in which a disk really writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxcap import files
from jaxcap.errors import InputError
from jaxcap.files import cache_dir

_WAY_OUT = (
    "Make room or give permission there and start again, give another place by "
    "--encoder.cache-dir DIR, or do without by --encoder.no-cache-features."
)


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/jaxcap/features`, by default `~/.cache/jaxcap/features`.

    Raises:
      InputError: this user has no home.
    """
    directory = cache_dir("features")
    if directory is None:
        raise InputError(f"There is no home directory to keep features in. {_WAY_OUT}")
    return directory


@dataclass(frozen=True)
class FeatureCache:
    """The features of one split, under one key.

    Attributes:
      directory: where they lie.
      manifest: all that they depend on; the directory's name ends with its digest.
      shape: `(images, P, D)`.
      chunk: images in a chunk; the last one may have fewer.
    """

    directory: Path
    manifest: str
    shape: tuple[int, ...]
    chunk: int

    @classmethod
    def under(
        cls,
        root: Path,
        label: str,
        identity: dict[str, Any],
        *,
        shape: tuple[int, ...],
        chunk: int,
    ) -> FeatureCache:
        """The cache in `root` for `identity`; nothing is read or written yet.

        Args:
          label: begins the directory's name, for people who look into `root`.
          identity: everything that decides what the features are, as JSON types.
        """
        content = {"format": 1, "shape": list(shape), "images in a chunk": chunk, **identity}
        manifest = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        key = hashlib.sha256(manifest.encode()).hexdigest()[:32]
        name = re.sub(r"[^\w.-]+", "_", label)
        return cls(root / f"{name}-{key}", manifest, shape, chunk)

    @property
    def image_bytes(self) -> int:
        """Size of the features of one image."""
        return math.prod(self.shape[1:]) * np.dtype(np.float32).itemsize

    def numbers(self, chunk: int) -> Int[np.ndarray, " images"]:
        """The numbers of the records that a chunk holds."""
        return np.arange(chunk * self.chunk, min((chunk + 1) * self.chunk, self.shape[0]))

    def size(self, chunks: list[int]) -> int:
        """Bytes that chunks take."""
        return sum(len(self.numbers(chunk)) for chunk in chunks) * self.image_bytes

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Makes the directory and keeps other processes out; one that is killed lets go.

        Args:
          waiting: called before waiting for another process, if there is one.

        Raises:
          InputError: it is not possible to write there.
        """
        with contextlib.ExitStack() as stack:
            with self._failures():
                self.directory.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((self.directory / "lock").open("w"))
                files.locked(lock, waiting)
            yield

    def missing(self) -> list[int]:
        """The chunks that are still to be computed; to be called under the lock.

        All that claims to be done is read and checked, and forgotten if it fails.
        """
        with self._failures():
            manifest = self.directory / "manifest.json"
            if _text(manifest) != self.manifest:
                self._notes.unlink(missing_ok=True)
                self._features.unlink(missing_ok=True)
                files.write_text(manifest, self.manifest)
            done = {
                chunk: checksum
                for chunk, checksum in sorted(self._noted().items())
                if zlib.crc32(self._bytes(chunk)) == checksum
            }
            # Written anew, for half a line at its end would spoil the next one.
            files.write_text(self._notes, "".join(_line(*item) for item in done.items()))
        chunks = -(-self.shape[0] // self.chunk)
        return [chunk for chunk in range(chunks) if chunk not in done]

    def check_room(self, missing: list[int]) -> None:
        """Refuses to begin what the disk cannot hold.

        Raises:
          InputError: less is free than the missing chunks take.
        """
        needed, free = self.size(missing), shutil.disk_usage(self.directory).free
        if needed > free:
            raise InputError(
                f"{self.directory}: the features to be kept there take {size_text(needed)}, and "
                f"{size_text(free)} are free on that disk. {_WAY_OUT}"
            )

    def write(self, chunk: int, features: Float[np.ndarray, "images P D"]) -> None:
        """Keeps the features of a chunk: their bytes, then a note that they are there.

        Raises:
          InputError: no room, or no permission; all earlier chunks are kept.
        """
        expected = (len(self.numbers(chunk)), *self.shape[1:])
        if features.shape != expected or features.dtype != np.float32:
            raise ValueError(f"{features.dtype} {features.shape}, expected float32 {expected}")
        data = features.tobytes()
        with self._failures():
            self._features.touch()
            with self._features.open("r+b") as file:
                file.seek(chunk * self.chunk * self.image_bytes)
                file.write(data)
            with self._notes.open("a", encoding="utf-8") as notes:
                notes.write(_line(chunk, zlib.crc32(data)))

    def read(self) -> Float[np.ndarray, "images P D"]:
        """All features, by memory map: from disk comes only what is used. None may be missing."""
        return np.memmap(self._features, np.float32, "r", shape=self.shape)

    @property
    def _features(self) -> Path:
        return self.directory / "features.bin"

    @property
    def _notes(self) -> Path:
        return self.directory / "chunks.jsonl"

    def _bytes(self, chunk: int) -> bytes:
        """What lies where a chunk belongs."""
        if not self._features.is_file():
            return b""
        with self._features.open("rb") as file:
            file.seek(chunk * self.chunk * self.image_bytes)
            return file.read(self.size([chunk]))

    def _noted(self) -> dict[int, int]:
        """The checksum of each chunk, the last that was noted; senseless lines are left out."""
        noted: dict[int, int] = {}
        for line in (_text(self._notes) or "").splitlines():
            if match := re.fullmatch(r"\[(\d+), (\d+)\]", line):
                noted[int(match[1])] = int(match[2])
        return {chunk: checksum for chunk, checksum in noted.items() if self.size([chunk]) > 0}

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.directory}: features cannot be kept there ({error.strerror}); those that "
                f"are, stay. {_WAY_OUT}"
            ) from error


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _line(chunk: int, checksum: int) -> str:
    return json.dumps([chunk, checksum]) + "\n"


def size_text(count: int) -> str:
    """A number of bytes for people: `"2.4 GB"`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.1f} kB"
