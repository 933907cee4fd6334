"""Build a TFDS data set from items, in several processes, without TensorFlow.

The result depends only on the recipe: the bytes are the same from one process or many, on one
machine or several, with or without interruptions. A complete data set becomes
`DATA_DIR/NAME/VERSION` by one rename.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import PIL
import tensorflow_datasets as tfds

from jaxcap.data.image_paths import Part
from jaxcap.datasets.shards import Finished, Make, Shard, Workplace, plan
from jaxcap.datasets.sources.findings import some
from jaxcap.files import check_space, lock_file
from jaxcap.messages import Progress, no_progress
from jaxcap.messages.errors import InputError, counted

VERSION = "1.0.0"

_WORTH_PROCESSES = 300  # images that one process checks while another starts
_ROOM = 64 * 2**20  # bytes to leave free on the disk


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a data set.

    Attributes:
      name: the name of the data set.
      splits: the items of each split; slices are pickled and sent to workers.
      make: makes the record of an item (features `image`, `captions`, `image_id` and `texts`).
        It must be picklable, and its result must depend only on its arguments.
      fingerprint: changes whenever a record changes.
      description: one sentence about the data set.
      homepage: its web page.
      citation: the paper to cite.
      metadata: JSON to store with the data set.
      texts: the names of further text features.
      images: whether records have an `image`.
      size: the approximate size of all records in bytes, if known.
    """

    name: str
    splits: Mapping[str, Sequence[Any]]
    make: Make
    fingerprint: str
    description: str
    homepage: str = ""
    citation: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    images: bool = True
    size: int | None = None

    def items(self, shard: Shard) -> Sequence[Any]:
        """Return the items of a shard."""
        return self.splits[shard.split][shard.begin : shard.end]


def build(
    recipe: Recipe,
    data_dir: Path,
    *,
    part: Part | None = None,
    join: bool = False,
    workers: int | None = None,
    skip_bad: bool = False,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda text: None,
) -> Path:
    """Build a data set, or a part of one, unless one of that name exists; return its folder.

    A killed build leaves its finished shards in a temporary folder, and the next call with the same
    recipe reuses them. An error leaves nothing behind. Concurrent calls for the same data set wait
    for the first.

    A part is a share of the shards. They stay in the temporary folder until all are there.

    Args:
      recipe: defines the data set.
      data_dir: the directory of all data sets.
      part: write the shards of this part alone.
      join: write no shard, only complete the data set whose parts are all written.
      workers: the number of processes; by default one per processor if there are enough images.
      skip_bad: leave out items whose record cannot be made, instead of failing.
      progress: called with (task, done, total).
      report: called with messages for the user.

    Raises:
      InputError: records that cannot be made (the first ten and their number), parts that are
        missing, no space, or no permission.
    """
    final = data_dir / recipe.name / VERSION
    place = Workplace(final.with_name(f"{VERSION}.unfinished-{_key(recipe)}"), recipe.name)
    parents = [folder for folder in final.parent.parents if not folder.exists()]

    def waiting() -> None:
        report(f"{recipe.name}: another process is preparing it; waiting")

    try:
        with lock_file(final.with_name(f"{VERSION}.lock"), waiting, shared=part is not None):
            if final.exists():
                return final
            if join:
                _check_parts(recipe, place)
            if part is None:
                for other in final.parent.glob(f"{VERSION}.unfinished-*"):
                    if other != place.root:  # of another recipe, so it will not be resumed
                        shutil.rmtree(other, ignore_errors=True)
            try:
                place.make()
                finished = _write_shards(recipe, place, part, workers, progress, report)
                if part is None:
                    _check_splits(recipe, finished)
                _report_unreadable(recipe, finished, skip_bad, report)
                if part is not None:
                    return place.root
                _write_metadata(recipe, place.data, finished)
                os.rename(place.data, final)
            except (KeyboardInterrupt, BrokenProcessPool):
                report(
                    f"{recipe.name}: stopped; run the same command to resume from finished shards"
                )
                raise
            except BaseException:
                if part is None and not join:  # others wrote the other parts
                    shutil.rmtree(place.root, ignore_errors=True)
                raise
            shutil.rmtree(place.root, ignore_errors=True)
    except BrokenProcessPool as error:
        raise InputError(
            f"{recipe.name}: a worker process was killed, perhaps because memory ran out. Run the "
            "command again with fewer --workers to resume"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{recipe.name}: cannot write to {error.filename or data_dir}: {reason}. Give "
            "--data-dir DIR, or set TFDS_DATA_DIR"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            for folder in (final.parent, *parents):
                folder.rmdir()  # only succeeds if nothing was built
    return final


def _key(recipe: Recipe) -> str:
    """Return a key of the build; shards of different items or Pillow versions must not be mixed."""
    counts = {split: len(items) for split, items in recipe.splits.items()}
    parts = [VERSION, recipe.fingerprint, counts, PIL.__version__]
    return hashlib.blake2b(json.dumps(parts).encode()).hexdigest()[:16]


# ---- shards ----------------------------------------------------------------------------------


def _plan(recipe: Recipe, part: Part | None = None) -> list[Shard]:
    shards = plan({split: len(items) for split, items in recipe.splits.items()})
    return shards if part is None else shards[part.number - 1 :: part.of]


def _check_parts(recipe: Recipe, place: Workplace) -> None:
    shards = _plan(recipe)
    missing = [shard for shard in shards if not place.has(shard)]
    if not missing:
        return
    others = any(p != place.root for p in place.root.parent.glob(f"{VERSION}.unfinished-*"))
    differ = "; parts were prepared with other options or from other files" if others else ""
    raise InputError(
        f"{recipe.name}: {len(missing)} of {len(shards)} shards are missing in {place.root}"
        f"{differ}. Run --part for each part with these options, and copy the shards of other "
        "machines into that folder; or leave out --join to prepare the rest here"
    )


def _write_shards(
    recipe: Recipe,
    place: Workplace,
    part: Part | None,
    workers: int | None,
    progress: Progress,
    report: Callable[[str], None],
) -> list[tuple[Shard, Finished]]:
    """Write the missing shards; return all shards in order with their results."""
    shards = _plan(recipe, part)
    finished = {shard: found for shard in shards if (found := place.find(shard))}
    if finished:
        report(f"{recipe.name}: resuming; {len(finished)} of {len(shards)} shards are finished")
    _check_space(recipe, place, len(shards), sum(f.file_bytes for f in finished.values()))
    left = [shard for shard in shards if shard not in finished]
    total = sum(shard.end - shard.begin for shard in shards)
    to_do = sum(shard.end - shard.begin for shard in left)
    if workers is None:
        workers = (os.cpu_count() or 1) if to_do > _WORTH_PROCESSES else 1
    workers, done = min(workers, len(left)), total - to_do

    def tell(more: int) -> None:
        progress(f"{recipe.name}: storing", done + more, total)

    if workers <= 1:
        finished.update(_write_here(recipe, place, left, tell))
    else:
        finished.update(_write_in_processes(recipe, place, left, workers, tell))
    return [(shard, finished[shard]) for shard in shards]


def _write_here(
    recipe: Recipe, place: Workplace, shards: Sequence[Shard], tell: Callable[[int], None]
) -> dict[Shard, Finished]:
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        tell(count)

    return {
        shard: place.write(
            shard,
            recipe.items(shard),
            recipe.make,
            tick=tick,
            stopped=lambda: False,
        )
        for shard in shards
    }


def _write_in_processes(
    recipe: Recipe,
    place: Workplace,
    shards: Sequence[Shard],
    workers: int,
    tell: Callable[[int], None],
) -> dict[Shard, Finished]:
    # Not forked: a fork would inherit locks that other threads of this process hold.
    context = multiprocessing.get_context("spawn")
    count, stop = context.Value("q", 0), context.Event()
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(place, recipe.make, count, stop)
    ) as pool:
        try:
            waiting = {pool.submit(_work, shard, recipe.items(shard)): shard for shard in shards}
            results: dict[Shard, Finished] = {}
            pending = set(waiting)
            while pending:
                ready, pending = concurrent.futures.wait(
                    pending, timeout=0.2, return_when=concurrent.futures.FIRST_COMPLETED
                )
                results.update({waiting[future]: future.result() for future in ready})
                tell(count.value)
            return results
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


_worker: tuple[Workplace, Make, Any, Any]
"""The arguments of `_start_worker`, in a worker process."""


def _start_worker(place: Workplace, make: Make, count: Any, stop: Any) -> None:
    global _worker
    _worker = place, make, count, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed; it would otherwise wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(shard: Shard, items: Sequence[Any]) -> Finished:
    place, make, count, stop = _worker

    def tick() -> None:
        with count.get_lock():
            count.value += 1

    return place.write(shard, items, make, tick=tick, stopped=stop.is_set)


def _check_space(recipe: Recipe, place: Workplace, shards: int, there: int) -> None:
    if recipe.size is not None:
        check_space(
            recipe.name,
            place.root.parent.parent,
            recipe.size * shards // len(_plan(recipe)) - there + _ROOM,
            "Choose another directory with --data-dir, or store smaller images with --max-side",
        )


def _check_splits(recipe: Recipe, finished: Sequence[tuple[Shard, Finished]]) -> None:
    for split in recipe.splits:
        if not any(result.records for shard, result in finished if shard.split == split):
            _raise_unreadable(recipe, finished, f"the split '{split}' has no other image")


def _report_unreadable(
    recipe: Recipe,
    finished: Sequence[tuple[Shard, Finished]],
    skip_bad: bool,
    report: Callable[[str], None],
) -> None:
    problems = _problems(finished)
    if problems and not skip_bad:
        _raise_unreadable(recipe, finished, "fix them, or leave them out with --skip-bad")
    if problems:
        report(
            "\n".join(
                [f"{recipe.name}: left out {counted(len(problems), 'image')}:", *some(problems)]
            )
        )


def _problems(finished: Sequence[tuple[Shard, Finished]]) -> list[str]:
    return [message for _, result in finished for message in result.unreadable]


def _raise_unreadable(
    recipe: Recipe, finished: Sequence[tuple[Shard, Finished]], way_out: str
) -> NoReturn:
    problems = _problems(finished)
    raise InputError(
        f"{recipe.name}: {counted(len(problems), 'image')} cannot be read ({way_out}):",
        *some(problems),
    )


# ---- metadata --------------------------------------------------------------------------------


def _write_metadata(
    recipe: Recipe, folder: Path, finished: Sequence[tuple[Shard, Finished]]
) -> None:
    """Write the files that turn a folder of shards into a TFDS data set."""
    text = tfds.features.Text()
    splits = []
    for split in recipe.splits:
        results = [result for shard, result in finished if shard.split == split]
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[result.records for result in results],
                num_bytes=sum(result.num_bytes for result in results),
            )
        )
    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            name=recipe.name,
            version=tfds.core.Version(VERSION),
            data_dir=str(folder),
            module_name="",
        ),
        description=recipe.description,
        features=tfds.features.FeaturesDict(
            {
                **({"image": tfds.features.Image(shape=(None, None, 3))} if recipe.images else {}),
                "captions": tfds.features.Sequence(text),
                "image_id": text,
                **dict.fromkeys(recipe.texts, text),
            }
        ),
        homepage=recipe.homepage,
        citation=recipe.citation,
        disable_shuffling=True,  # the order of the source
        metadata=tfds.core.MetadataDict(
            **recipe.metadata,
            left_out=sum(len(result.unreadable) for _, result in finished),
        ),
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(folder)
