"""Write the captions of a tar or Parquet file of images into a file of the same kind."""

from __future__ import annotations

import contextlib
import io
import json
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from jaxcap.caption_files.output_formats import Key, encoded
from jaxcap.caption_files.writing import CaptionWriter, in_use
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.files import check_folder, check_space, lock_file, replacing
from jaxcap.messages.errors import InputError

_SHARD = re.compile(r".*?\.(?:tar|parquet)/", re.DOTALL | re.IGNORECASE)

_COLUMNS = ("image", "caption", "log_prob", "confidence")

_ROOM = 16 * 2**20
"""Bytes that must be free before the first image is captioned. A caption takes about a hundred in
Parquet, and 2,048 in a tar file."""


@dataclass
class ShardWriter:
    """A `.tar` or `.parquet` file of captions, which appears when it is complete.

    A tar file holds `NAME.txt` and `NAME.json` for the image NAME, like a WebDataset shard. A
    Parquet file has the columns image, caption, log_prob, and confidence.

    Attributes:
      path: the file.
      restart: replace the file if it exists.
    """

    path: Path
    restart: bool = False
    captions: dict[str, Caption] = field(default_factory=dict)
    """The best caption of each image, by its key."""

    clash = CaptionWriter.clash

    _closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def key(self, name: str) -> str:
        """Return the name of an image within its shard; in tar files, without the suffix."""
        within = _SHARD.sub("", name, count=1).lstrip("/")
        if self.path.suffix.lower() != ".tar":
            return encoded(within).decode()  # Parquet holds no bytes of names that are not text
        # What unpacks the file must not leave the folder.
        return posixpath.splitext(posixpath.normpath(f"/{within}"))[0].lstrip("/")

    def has(self, key: Key) -> bool:
        """Return False: the captions are written as a whole."""
        return False

    def add(self, result: Captioned) -> None:
        """Add the best caption of an image; do nothing for an image without one."""
        if result.captions:
            self.captions[self.key(result.name)] = result.captions[0]

    def __enter__(self) -> ShardWriter:
        """Lock out other processes, and check that the file can be written.

        Raises:
          InputError: the file exists, or is to be replaced and holds more than captions, another
            process is writing it, its folder does not exist or is not writable, or the disk is
            full.
        """
        folder = self.path.absolute().parent
        check_folder(self.path)
        check_space(
            self.path, folder, _ROOM, "Free some space there, or give an --output elsewhere."
        )
        with contextlib.ExitStack() as stack:
            try:
                alone = stack.enter_context(lock_file(folder / f".{self.path.name}.lock"))
            except OSError as failure:
                raise self._failed(failure) from failure
            if not alone:
                raise in_use(self.path)
            if self.path.exists() and not self.restart:
                raise InputError(
                    f"{self.path}: the file exists. The captions of a shard are written as a "
                    "whole; give another --output, or replace the file with --restart."
                )
            if self.path.exists() and not _is_of_captions(self.path):
                raise InputError(
                    f"{self.path}: it holds more than captions, so --restart does not replace it. "
                    "Give another --output."
                )
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._closing:
            if kind is not None:
                return
            write = _write_tar if self.path.suffix.lower() == ".tar" else _write_parquet
            try:
                with replacing(self.path) as beside:
                    write(beside, self.captions)
            except OSError as failure:
                raise self._failed(failure) from failure

    def _failed(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot write: {error.strerror}.")


def _is_of_captions(path: Path) -> bool:
    """Return whether a file holds captions alone, as `ShardWriter` writes them."""
    if path.suffix.lower() == ".tar":
        from jaxcap.data.image_tar import holds_only

        return holds_only(path, (".txt", ".json"))
    from jaxcap.data.image_parquet import open_parquet

    try:
        return open_parquet(path).schema_arrow.names == [*_COLUMNS]
    except InputError:  # damaged, or another kind of file
        return False


def _numbers(caption: Caption) -> dict[str, float]:
    return {"log_prob": round(caption.log_prob, 4), "confidence": round(caption.confidence, 4)}


def _write_tar(path: Path, captions: dict[str, Caption]) -> None:
    import tarfile  # every start of `jaxcap caption` imports this file

    with tarfile.open(path, "w") as tar:
        for key, caption in captions.items():
            values = json.dumps({"caption": caption.text, **_numbers(caption)}, ensure_ascii=False)
            for suffix, text in ((".txt", caption.text), (".json", values)):
                data = f"{text}\n".encode()
                info = tarfile.TarInfo(key + suffix)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def _write_parquet(path: Path, captions: dict[str, Caption]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"image": key, "caption": caption.text, **_numbers(caption)}
        for key, caption in captions.items()
    ]
    schema = pa.schema(
        {"image": pa.string(), "caption": pa.string()} | dict.fromkeys(_COLUMNS[2:], pa.float64())
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
