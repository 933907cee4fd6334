"""Cache the features of a split on disk: written in chunks with checksums, read by memory map.

    ROOT/LABEL-KEY/
      manifest.json   everything that the features depend on, as text; KEY is its digest
      features.bin    float32 [images, P, D], one image after the other, no header
      chunks.jsonl    a line for each finished chunk of images: its number and its CRC-32
      lock            held while chunks are checked and computed

One rule covers a killed process, a full disk, a truncated file and a flipped bit: *a chunk is
finished when its bytes match the checksum that was recorded after they were written*. Every other
chunk is computed again. Correctness does not depend on the order in which the disk writes.
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
from rich.filesize import decimal

from jaxcap import files
from jaxcap.files import cache_dir, is_disk_full
from jaxcap.messages.errors import InputError
from jaxcap.model.recogniser.words import RecognisedWords

_WAY_OUT = (
    "Choose another directory with --encoder.cache-dir DIR, or turn the cache off with "
    "--encoder.no-cache-features."
)


def default_cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/jaxcap/features`, by default `~/.cache/jaxcap/features`.

    Raises:
      InputError: the user has no home directory.
    """
    directory = cache_dir("features")
    if directory is None:
        raise InputError(f"No home directory to cache features in. {_WAY_OUT}")
    return directory


@dataclass(frozen=True)
class EncodedImages:
    """The features, and recognised words if any, of all images of a split.

    Attributes:
      rows: the features of each image. With a recogniser, further rows of width D follow: the ids
        of the K words, their probabilities, and zeros that fill the last row.
      words: K; 0 without a recogniser.
    """

    rows: Float[np.ndarray, "images P D"]
    words: int = 0

    def take(
        self, numbers: Int[np.ndarray, " B"]
    ) -> tuple[Float[np.ndarray, "B P D"], RecognisedWords | None]:
        """Return the features and the recognised words of some images."""
        rows = np.stack([self.rows[i] for i in numbers])
        if not self.words:
            return rows, None
        last = rows.shape[1] - rows_of_words(self.words, rows.shape[2])
        flat = rows[:, last:].reshape(len(rows), -1)
        ids, probabilities = flat[:, : self.words], flat[:, self.words : 2 * self.words]
        return rows[:, :last], RecognisedWords(ids.astype(np.int32), probabilities)


def rows_of_words(words: int, width: int) -> int:
    """Return the number of rows that hold the ids and probabilities of K words."""
    return -(-2 * words // width)


@dataclass(frozen=True)
class FeatureCache:
    """The cached features of one split.

    Attributes:
      directory: holds the files of this cache.
      manifest: everything that the features depend on; its digest ends the directory's name.
      shape: `(images, P, D)`.
      chunk: images per chunk; the last chunk may have fewer.
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
        """Locate the cache for `identity` in `root`, without reading or writing anything.

        Args:
          root: the directory of all caches.
          label: a readable prefix of the directory's name.
          identity: everything that determines the features, as JSON types.
          shape: `(images, P, D)`.
          chunk: images per chunk.
        """
        content = {"format": 1, "shape": list(shape), "images in a chunk": chunk, **identity}
        manifest = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        key = hashlib.sha256(manifest.encode()).hexdigest()[:32]
        name = re.sub(r"[^\w.-]+", "_", label)
        return cls(root / f"{name}-{key}", manifest, shape, chunk)

    @property
    def image_bytes(self) -> int:
        """The size of one image's features in bytes."""
        return math.prod(self.shape[1:]) * np.dtype(np.float32).itemsize

    def numbers(self, chunk: int) -> Int[np.ndarray, " images"]:
        """Return the record numbers of a chunk."""
        return np.arange(chunk * self.chunk, min((chunk + 1) * self.chunk, self.shape[0]))

    def size(self, chunks: list[int]) -> int:
        """Return the size of some chunks in bytes."""
        return sum(len(self.numbers(chunk)) for chunk in chunks) * self.image_bytes

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Create the directory and lock it; the lock of a killed process is released.

        Args:
          waiting: called before waiting for another process that holds the lock.

        Raises:
          InputError: the directory is not writable.
        """
        with contextlib.ExitStack() as stack:
            with self._failures():
                self.directory.mkdir(parents=True, exist_ok=True)
                path = self.directory / "lock"
                lock = stack.enter_context(open(path, "a", opener=files.no_link))
                files.locked(lock, waiting)
            yield

    def missing(self) -> list[int]:
        """Return the chunks that are still to be computed. Call it while holding the lock.

        Every recorded chunk is read, and forgotten if its checksum is wrong.
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
            # Rewritten, because a partial last line would corrupt the next one.
            files.write_text(self._notes, "".join(_line(*item) for item in done.items()))
        chunks = -(-self.shape[0] // self.chunk)
        return [chunk for chunk in range(chunks) if chunk not in done]

    def check_room(self, missing: list[int]) -> None:
        """Check that the missing chunks fit on the disk.

        Raises:
          InputError: they do not.
        """
        needed, free = self.size(missing), shutil.disk_usage(self.directory).free
        if needed > free:
            raise InputError(
                f"{self.directory}: the cached features take {decimal(needed)}, but only "
                f"{decimal(free)} are free on that disk. Free some space there. {_WAY_OUT}"
            )

    def write(self, chunk: int, features: Float[np.ndarray, "images P D"]) -> None:
        """Write the features of a chunk, then record its checksum.

        Raises:
          InputError: no space, or no permission; earlier chunks are kept.
        """
        expected = (len(self.numbers(chunk)), *self.shape[1:])
        if features.shape != expected or features.dtype != np.float32:
            raise ValueError(f"{features.dtype} {features.shape}, expected float32 {expected}")
        data = features.tobytes()
        with self._failures():
            self._features.touch()
            with open(self._features, "r+b", opener=files.no_link) as file:
                file.seek(chunk * self.chunk * self.image_bytes)
                file.write(data)
            with open(self._notes, "a", encoding="utf-8", opener=files.no_link) as notes:
                notes.write(_line(chunk, zlib.crc32(data)))

    def read(self) -> Float[np.ndarray, "images P D"]:
        """Memory-map all features. No chunk may be missing."""
        return np.memmap(self._features, np.float32, "r", shape=self.shape)

    @property
    def _features(self) -> Path:
        return self.directory / "features.bin"

    @property
    def _notes(self) -> Path:
        return self.directory / "chunks.jsonl"

    def _bytes(self, chunk: int) -> bytes:
        """Read the bytes at the position of a chunk."""
        if not self._features.is_file():
            return b""
        with self._features.open("rb") as file:
            file.seek(chunk * self.chunk * self.image_bytes)
            return file.read(self.size([chunk]))

    def _noted(self) -> dict[int, int]:
        """Return the last recorded checksum of each chunk; malformed lines are ignored."""
        noted: dict[int, int] = {}
        for line in (_text(self._notes) or "").splitlines():
            if match := re.fullmatch(r"\[(\d{1,18}), (\d{1,18})\]", line):
                noted[int(match[1])] = int(match[2])
        return {chunk: checksum for chunk, checksum in noted.items() if self.size([chunk]) > 0}

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.directory}: cannot cache features ({error.strerror}); finished chunks are "
                f"kept. {'Free some space there. ' if is_disk_full(error) else ''}{_WAY_OUT}"
            ) from error


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _line(chunk: int, checksum: int) -> str:
    return json.dumps([chunk, checksum]) + "\n"
