"""Caption shards of images with Ray Data: each becomes one Parquet file of captions.

An actor reads the images of a shard itself, in threads, and writes their captions by one rename.
So a shard is captioned once or not at all, whatever is killed, and no reader competes with the
actors for processors (https://github.com/ray-project/ray/issues/44687).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import socket
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxcap.batch.batch_captioner import Captioner
from jaxcap.caption_files.made_with import Record, check_record, record_of, write_record
from jaxcap.data.image_parquet import open_parquet
from jaxcap.data.image_paths import ImagePath, images_in, is_shard
from jaxcap.files import check_space, lock_file, replacing
from jaxcap.messages.errors import InputError

_ROOM = 64 * 2**20
"""Bytes that must be free before the first shard is captioned."""
_SECONDS = 10.0
"""How long to wait for the cluster to answer."""
_TRIES = 4
"""How often an actor may die over a shard. Ray itself would try again forever."""
_FILE = re.compile(r"captions-\d{5,}-of-\d{5,}\.parquet")
_LEFT = re.compile(rf"\.{_FILE.pattern}\.(tries|[0-9a-f]+\.part)")
"""The files that killed actors leave."""
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("image", "caption")),
        *((name, pa.float64()) for name in ("log_prob", "confidence")),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """Images that are captioned together.

    Attributes:
      file: the Parquet file of their captions.
      paths: image files, or one `.tar` or `.parquet` file; relative ones below `root`.
      root: the working folder of the command, which workers elsewhere do not share.
    """

    file: Path
    paths: tuple[Path, ...]
    root: Path

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Shard:
        """Read the result of `to_row`."""
        file, root, *paths = (Path(os.fsdecode(path)) for path in row["paths"])
        return cls(file, tuple(paths), root)

    def to_row(self) -> dict[str, list[bytes]]:
        """Return a row of a data set, as bytes, because file names need not be valid text."""
        return {"paths": [os.fsencode(path) for path in (self.file, self.root, *self.paths)]}

    def images(self) -> list[tuple[str, Any]]:
        """Return the name and the path or place of each image.

        Raises:
          InputError: the `.tar` or `.parquet` file cannot be read.
        """
        first = self.paths[0]
        if not is_shard(first):
            return [(str(path), str(self.root / path)) for path in self.paths]
        return [(str(first / found.within), found.image) for found in images_in(self.root / first)]


@dataclass(frozen=True)
class Finished:
    """The result of a shard.

    Attributes:
      shard: the images, or their file.
      images: the number of images, including those with an error.
      failed: the number of images with an error.
      problem: why there is no file of captions, or "".
    """

    shard: str
    images: int = 0
    failed: int = 0
    problem: str = ""


class ShardCaptioner:
    """The actor of Ray Data: captions one shard after another."""

    def __init__(self, captioner: Any):
        """Initialise with a reference to a `Captioner`, whose column of images is "image"."""
        self._captioner: Captioner = require_ray().get(captioner)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Caption a shard; return a `Finished` as a dict."""
        shard = Shard.from_row(row)
        return asdict(self._caption(shard, _text(shard.paths[0])))

    def _caption(self, shard: Shard, name: str) -> Finished:
        tries = shard.file.with_name(f".{shard.file.name}.tries")
        try:
            if _count(tries) > _TRIES:
                return Finished(
                    name,
                    problem=f"{name}: its actor died {_TRIES} times, perhaps because memory ran "
                    "out; give a smaller --batch-size or fewer --actors",
                )
            named = shard.images()
            columns = self._captioner({"image": [image for _, image in named]})
            columns["image"] = np.array([_text(name) for name, _ in named], object)
            table = pa.table(  # `from_pandas` makes NaN null
                [pa.array(columns[each.name], each.type, from_pandas=True) for each in _SCHEMA],
                _SCHEMA,
            )
            with replacing(shard.file) as beside:
                pq.write_table(table, beside)
            tries.unlink()
        except InputError as error:
            return Finished(name, problem=str(error))
        except OSError as error:
            return Finished(name, problem=f"{shard.file}: cannot write: {error.strerror}")
        return Finished(name, len(table), len(table) - table["error"].null_count)


def _count(file: Path) -> int:
    """Add one to the number that a file holds as its size, and return the sum."""
    with file.open("ab") as counter:
        counter.write(b".")
        return counter.tell()


def _text(name: str | Path) -> str:
    """Return a name as text; bytes that are none become "?"."""
    return str(name).encode(errors="replace").decode()


def plan_shards(found: Iterable[ImagePath], folder: Path, size: int) -> list[Shard]:
    """Divide images into shards: each `.tar` or `.parquet` file, and every `size` image files.

    Args:
      found: from `image_paths` with `whole_shards`.
      folder: where the captions go.
      size: images per shard, for image files.
    """
    paths = list(dict.fromkeys(image.path for image in found))
    loose = [path for path in paths if not is_shard(path)]
    groups: list[tuple[Path, ...]] = [(path,) for path in paths if is_shard(path)]
    groups += [tuple(loose[i : i + size]) for i in range(0, len(loose), size)]
    of = len(groups)
    root = Path.cwd()
    return [
        Shard(folder.absolute() / f"captions-{i:05}-of-{of:05}.parquet", paths, root)
        for i, paths in enumerate(groups)
    ]


@contextlib.contextmanager
def captions_folder(
    folder: Path, shards: Sequence[Shard], *, made_with: Record, restart: bool = False
) -> Iterator[tuple[list[Shard], int]]:
    """Lock a folder of captions, and yield the work that remains.

    Args:
      folder: created if it does not exist.
      shards: all shards, including those that have captions.
      made_with: the settings that determine the captions, recorded beside the folder; see
        `made_with`.
      restart: remove the captions that the folder holds.

    Yields:
      The shards without captions, and the number of images of the others.

    Raises:
      InputError: the folder holds other captions or cannot be written, its disk is full, or
        another process is writing it.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not stack.enter_context(lock_file(folder / ".lock")):
                raise InputError(f"{folder}: another process is writing captions there.")
            there = _open(folder, {**made_with, **_described(shards)}, restart=restart)
            before = sum(_rows(folder / name) for name in sorted(there))
        except OSError as error:
            raise InputError(
                f"{folder}: cannot write there: {error.strerror}. Give another --output."
            ) from error
        check_space(folder, folder, _ROOM, "Free some space there, or give another --output.")
        yield [shard for shard in shards if shard.file.name not in there], before


def _rows(file: Path) -> int:
    try:
        return int(open_parquet(file).metadata.num_rows)
    except InputError as error:
        reason = str(error).rstrip(".")
        raise InputError(
            f"{reason}. Remove it, and the same command captions its shard again."
        ) from None


def _described(shards: Sequence[Shard]) -> dict[str, Any]:
    """Return JSON values that differ if the shards hold other images."""
    paths = [[str(path) for path in shard.paths] for shard in shards]
    digest = hashlib.sha256(json.dumps(paths).encode())
    return {
        "files": sum(len(shard.paths) for shard in shards),
        "shards": len(shards),
        "names": digest.hexdigest()[:16],
    }


def _open(folder: Path, record: Record, *, restart: bool) -> set[str]:
    """Prepare a folder for captions; return the names of the files that it holds.

    Raises:
      InputError: it holds captions that were made with something else, or other files.
    """
    there = {path.name for path in folder.iterdir()}
    left = [name for name in there if _LEFT.fullmatch(name)]
    there = {name for name in there if not name.startswith(".")}
    if others := sorted(name for name in there if not _FILE.fullmatch(name)):
        raise InputError(
            f"{folder}: it holds {others[0]}, which is not a file of captions. Give another "
            "folder as --output."
        )
    for name in left:
        (folder / name).unlink()
    if restart:
        record_of(folder).unlink(missing_ok=True)
        for name in there:
            (folder / name).unlink()
        there = set()
    if there:
        check_record(folder, record)
    else:
        write_record(folder, record)
    return there


def caption_shards(
    shards: Sequence[Shard],
    captioner: Captioner,
    *,
    actors: int | None = None,
    cpus_per_actor: float = 1.0,
) -> Iterator[Finished]:
    """Caption shards on the cluster of `RAY_ADDRESS`, or else on this machine.

    Args:
      actors: how many processes caption; by default one per GPU, or else one per machine, because
        JAX uses all processors of a machine.
      cpus_per_actor: how many processors Ray counts for each.

    Yields:
      The result of each shard, in any order.

    Raises:
      InputError: Ray is not installed, there is no cluster, or it has no room for an actor.
    """
    if not shards:
        return
    ray = _connect()
    gpus = int(ray.cluster_resources().get("GPU", 0))
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    fitting = sum(cpus >= cpus_per_actor for cpus in nodes)
    if not fitting:
        raise InputError(
            f"--cpus-per-actor is {cpus_per_actor:g}, but the machines of the cluster have "
            f"{', '.join(f'{cpus:g}' for cpus in nodes)} processors."
        )
    count = min(actors or gpus or fitting, len(shards))
    # One block and one task for each shard, so that none waits for a busy actor while another is
    # idle. The pool begins with the actors for which there is room.
    rows = ray.data.from_items(
        [shard.to_row() for shard in shards], override_num_blocks=len(shards)
    )
    model = ray.put(captioner)  # kept here, because restarted actors ask for it again
    results = rows.map(
        ShardCaptioner,
        fn_constructor_args=(model,),
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=count, initial_size=count, max_tasks_in_flight_per_actor=1
        ),
        num_cpus=cpus_per_actor,
        num_gpus=1 if gpus else 0,
    )
    for row in results.iter_rows():
        yield Finished(**row)


def require_ray() -> Any:
    """Return the module `ray`.

    Raises:
      InputError: it is not installed.
    """
    # Otherwise Ray reports its use to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.data
    except ImportError as error:
        raise InputError("--engine ray needs Ray: pip install 'jaxcap[ray]'.") from error
    return ray


def _connect() -> Any:
    """Connect to the cluster of `RAY_ADDRESS`, or start one on this machine."""
    ray = require_ray()
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            # Ray itself would try for minutes.
            socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
        with warnings.catch_warnings():
            # JAX warns about forks; Ray's are followed by exec.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
            ray.init(log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except Exception as error:  # Ray raises plain ones too
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise InputError(
            f"RAY_ADDRESS is {address}, but there is no cluster ({reason}). Start one there with "
            "ray start --head, or unset the variable to use this machine alone."
            if address
            else f"Ray cannot start on this machine: {reason}"
        ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
