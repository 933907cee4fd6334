"""`jaxcap caption --engine`: caption very many images, on one machine or many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from jaxcap.messages.errors import InputError, counted, one_line
from jaxcap.messages.progress import Display, print_line

if TYPE_CHECKING:
    from jaxcap.batch.ray_shards import Finished
    from jaxcap.captioning.loaded_model import LoadedModel
    from jaxcap.data.image_paths import ImagePath


@dataclass(frozen=True)
class EngineOptions:
    """Several machines, or several GPUs."""

    engine: Literal["ray"] | None = None
    """ray: caption in shards by Ray Data, on the cluster of RAY_ADDRESS or this machine. --output
    is a folder, which receives a Parquet file for each shard; repeating the command continues after
    the finished shards. Each .tar or .parquet file is a shard; other images are divided into
    shards."""
    actors: int | None = None
    """--engine: processes that caption. Default: one per GPU, or else one per machine."""
    cpus_per_actor: float = 1.0
    """--engine: processors that Ray counts for each process."""
    shard_size: int = 1000
    """--engine: images per shard."""

    def check(self) -> None:
        """Check the values.

        Raises:
          InputError: one is out of range, or has no effect.
        """
        for name in ("actors", "cpus_per_actor", "shard_size"):
            value, default = getattr(self, name), getattr(EngineOptions, name)
            option = f"--{name.replace('_', '-')}"
            if self.engine is None and value != default:
                raise InputError(f"{option} needs --engine ray.")
            if value is not None and value <= 0:
                raise InputError(f"{option} is {value:g}; it must be above 0.")


def caption_on_engine(
    options: EngineOptions,
    captioner: LoadedModel,
    found: Iterable[ImagePath],
    output: Path,
    console: Console,
    *,
    restart: bool,
    batch_size: int,
) -> int:
    """Caption images in shards into a folder; return 1 if some could not be captioned."""
    from jaxcap.batch import Captioner
    from jaxcap.batch.ray_shards import caption_shards, captions_folder, plan_shards
    from jaxcap.captioning.identity import identity

    shards = plan_shards(found, output, options.shard_size)
    with (
        captions_folder(output, shards, made_with=identity(captioner), restart=restart) as (
            left,
            before,
        ),
        Display(console, "shards", total=len(shards), done=len(shards) - len(left)) as display,
    ):
        results: list[Finished] = []
        for result in caption_shards(
            left,
            Captioner(captioner, batch_size=batch_size),
            actors=options.actors,
            cpus_per_actor=options.cpus_per_actor,
        ):
            results.append(result)
            display.update(
                len(shards) - len(left) + len(results),
                counted(sum(r.images for r in results), "image"),
            )
    problems = [result.problem for result in results if result.problem]
    for problem in problems:
        print_line(console, one_line(f"skipped: {problem}"))
    said = f", {before} of them before" if before else ""
    total = before + sum(result.images for result in results)
    print_line(console, f"{counted(total, 'image')}{said}: {output}")
    if failed := sum(result.failed for result in results):
        print_line(console, f"{failed} of them could not be captioned; the column error says why.")
    if problems:
        print_line(
            console,
            f"{len(problems)} of {len(shards)} shards have no captions; the same command tries "
            "them again.",
        )
    return 1 if problems or failed else 0
