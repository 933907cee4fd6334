"""Checkpoints: the latest, to resume from, and the best, to caption with.

Orbax writes the arrays while training continues, `manifest` adds checksums, and a rename completes
the step. A step's directory is therefore whole or absent, whenever the process is killed. Later
damage is detected on reading: damaged steps are reported and the newest sound one is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax

from jaxcap.files import is_disk_full
from jaxcap.messages.errors import InputError
from jaxcap.messages.progress import escaped
from jaxcap.storage import manifest
from jaxcap.storage.stored_arrays import (
    MismatchError,
    UnreadableError,
    begin_saving,
    load_arrays,
    reason,
)
from jaxcap.storage.trained import not_finite

Metrics = Mapping[str, float]


@runtime_checkable
class State(Protocol):
    """A training state in two parts, such as `training.step.state.TrainState`."""

    @property
    def step(self) -> Any:
        """Optimizer steps taken."""
        ...

    @property
    def variables(self) -> dict[str, Any]:
        """The arrays that captioning needs."""
        ...

    @property
    def training(self) -> dict[str, Any]:
        """The arrays that only further training needs."""
        ...

    @classmethod
    def from_parts(cls, variables: dict[str, Any], training: dict[str, Any]) -> Any:
        """Join the two parts."""
        ...


S = TypeVar("S", bound=State)

_LATEST = 2
"""Keep the latest step, and the one before in case the latest is damaged."""

_UNFINISHED = re.compile(r"\d+\.(saving|removing|(saving\.)?orbax-checkpoint-tmp.*)")


class _DamagedError(InputError):
    """The content on disk differs from what was written."""


def _warn(message: str) -> None:
    warnings.warn(escaped(message), stacklevel=2)


class Checkpoints:
    """The directory `checkpoints/` of a run, with one subdirectory per kept step.

    Each step has `variables` (parameters and batch statistics, enough for captioning) and
    `training` (step and optimizer state), saved apart so that each can be restored alone; copies of
    the run's configuration and vocabulary; and `manifest.json` with scores, the position in
    training and checksums.

    In a run of several processes, each opens the directory, saves and restores; only the first
    completes and removes steps.
    """

    def __init__(
        self,
        directory: Path,
        *,
        metric: str,
        reading_only: bool = False,
        beside: Sequence[Path] = (),
        report: Callable[[str], None] = _warn,
    ):
        """Open the directory, creating it if needed.

        Args:
          metric: name of the score that decides which step is best.
          reading_only: leave unfinished steps alone; a running training may be writing them.
          beside: files to copy into each step.
          report: called with one line for each damaged step.
        """
        self._directory, self._metric = directory.absolute(), metric
        self._beside, self._report = tuple(beside), report
        self._writes = not reading_only and jax.process_index() == 0
        self._finishing = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        if self._writes:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
        self._kept = self._found()

    def _remove_unfinished(self) -> None:
        for path in self._directory.iterdir():
            if _UNFINISHED.fullmatch(path.name) and path.is_dir() and _is_ours(path):
                shutil.rmtree(path, ignore_errors=True)

    def _found(self) -> dict[int, Metrics | None]:
        if not self._directory.is_dir():
            return {}
        return {
            int(path.name): _metrics(path)
            for path in self._directory.iterdir()
            if path.name.isdecimal() and path.is_dir() and _is_ours(path)
        }

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._finishing.shutdown()
            if self._writes:
                self._remove_unfinished()

    def save(
        self, state: State, metrics: Metrics | None, *, note: dict[str, Any] | None = None
    ) -> None:
        """Start writing the state and return; the state may be donated at once.

        Args:
          metrics: scores of this state; if None, pass them to `score` later.
          note: JSON values that `note` returns.

        Raises:
          InputError: this save cannot start, or the previous one failed. Earlier steps are intact.
        """
        self.wait()
        step = int(state.step)
        numbers = None if metrics is None else {k: float(v) for k, v in metrics.items()}
        saving = self._directory / f"{step}.saving"
        with self._naming(step):
            if self._writes:
                _check_ours(saving, self._directory / str(step))
            wait = begin_saving(
                saving,
                {
                    "variables": state.variables,
                    "training": state.training,
                },
            )
        self._kept[step] = numbers
        self._forget_all_but(self._worth_keeping())
        content = manifest.Content(step, numbers, note or {})
        self._pending = self._finishing.submit(
            self._finish, step, wait, content, frozenset(self._kept)
        )

    def _finish(
        self,
        step: int,
        wait: Callable[[], None],
        content: manifest.Content,
        keep: frozenset[int],
    ) -> None:
        """Wait for Orbax, add the manifest, complete the step, and remove older steps."""
        with self._naming(step):
            wait()
            if not self._writes:
                return
            saving = self._directory / f"{step}.saving"
            for file in self._beside:
                shutil.copyfile(file, saving / file.name)
            manifest.write_manifest(saving, content)
            self._remove(step)  # a damaged step of the same number
            saving.rename(self._directory / str(step))
            self._remove_all_but(keep)

    def wait(self) -> None:
        """Wait until the last save is on disk.

        Raises:
          InputError: the save failed; earlier steps are intact.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def score(self, step: int, metrics: Metrics) -> None:
        """Add the scores of a step that was saved without them."""
        self.wait()
        numbers = {name: float(value) for name, value in metrics.items()}
        self._kept[step] = numbers
        self._forget_all_but(self._worth_keeping())
        if not self._writes:
            return
        path = self._directory / str(step)
        with self._naming(step):
            content = manifest.read_content(path) or manifest.Content(step)
            manifest.change_content(path, dataclasses.replace(content, metrics=numbers))
            self._remove_all_but(frozenset(self._kept))

    @contextlib.contextmanager
    def _naming(self, step: int) -> Iterator[None]:
        """Turn any error of a full or lost disk into an `InputError` that names the step."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            if self._writes:
                self._remove_unfinished()  # at once, because they may be what fills the disk
            kept = [s for s in sorted(self._kept) if (self._directory / str(s)).is_dir()]
            intact = f"Intact: step {', '.join(map(str, kept))}." if kept else "None came before."
            mended = "Free some space" if is_disk_full(error) else "Remove the cause"
            raise InputError(
                f"{self._directory}: the checkpoint of step {step} could not be written "
                f"({reason(error)}). {intact} {mended}, then start again to resume."
            ) from error

    def _worth_keeping(self) -> frozenset[int]:
        best = self.best_step
        latest = sorted(self._kept)[-_LATEST:]
        return frozenset(latest if best is None else [*latest, best])

    def _forget_all_but(self, keep: frozenset[int]) -> None:
        self._kept = {step: metrics for step, metrics in self._kept.items() if step in keep}

    def _remove_all_but(self, keep: frozenset[int]) -> None:
        for step in self._found().keys() - keep:
            self._remove(step)

    def _remove(self, step: int) -> None:
        # Rename first: a half-removed directory would look like a damaged step.
        path, removing = self._directory / str(step), self._directory / f"{step}.removing"
        _check_ours(path, removing)
        shutil.rmtree(removing, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            path.rename(removing)
            shutil.rmtree(removing, ignore_errors=True)

    @property
    def latest_step(self) -> int | None:
        """The newest kept step, or None."""
        return max(self._kept, default=None)

    @property
    def best_step(self) -> int | None:
        """The step with the highest score, the latest if tied or without scores."""
        return max(self._kept, key=self._rank, default=None)

    def _rank(self, step: int) -> tuple[bool, float, int]:
        score = (self._kept[step] or {}).get(self._metric)
        # The later of equals, so that a score stuck at zero keeps the newest step.
        return (False, 0.0, step) if score is None else (True, score, step)

    def has(self, step: int) -> bool:
        """Return whether a step is kept."""
        return step in self._kept

    def scored(self, step: int) -> bool:
        """Return whether the scores of a step are known."""
        return self._kept.get(step) is not None

    def note(self, step: int) -> dict[str, Any]:
        """Return the note that was saved with a step."""
        content = manifest.read_content(self._directory / str(step))
        return {} if content is None else content.note

    def restore_newest(self, like: S | Callable[[int], S]) -> S | None:
        """Restore the newest sound step, or return None if there is none.

        All steps are checked. Damaged ones are reported, and removed after the next save.

        Raises:
          InputError: a checkpoint belongs to a different model.
        """
        self.wait()
        for step in sorted(self._kept):
            if damage := self._damage(step):
                self._drop(damage, step)
        for step in sorted(self._kept, reverse=True):
            try:
                return self.restore(step, like(step) if callable(like) else like)
            except _DamagedError as error:
                self._drop(str(error), step)
        return None

    def _drop(self, damage: str, step: int) -> None:
        self._report(damage)
        del self._kept[step]

    def restore(self, step: int, like: S) -> S:
        """Restore the state at `step`.

        Args:
          like: a state of the same shapes, types and shardings; its values are not used.

        Raises:
          InputError: the step is damaged, or belongs to a different model.
        """
        loaded = self._load(
            step,
            {
                "variables": like.variables,
                "training": like.training,
            },
        )
        state: S = type(like).from_parts(**loaded)
        if found := not_finite(loaded):
            raise _DamagedError(self._damaged(step, f"its numbers are not finite: {found}"))
        return state

    def restore_variables(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """Restore parameters and batch statistics at `step`, without the optimizer state."""
        variables: dict[str, Any] = self._load(step, {"variables": like})["variables"]
        return variables

    def restore_sound_variables(
        self, like: dict[str, Any], *, best: bool
    ) -> tuple[int, dict[str, Any]] | None:
        """Return the best (or latest) sound step and its variables, or None if there is no step.

        Raises:
          InputError: all steps are damaged, or one belongs to a different model.
        """
        damaged = []
        for step in sorted(self._kept, key=self._rank if best else None, reverse=True):
            try:
                return step, self.restore_variables(step, like)
            except _DamagedError as error:
                if not (self._directory / str(step)).exists():
                    # A training run in progress has removed it.
                    self._kept = self._found()
                    return self.restore_sound_variables(like, best=best)
                self._report(str(error))
                damaged.append(str(step))
        if damaged:
            raise InputError(
                f"{self._directory}: all checkpoints are damaged: step {', '.join(damaged)}. "
                "Train again, in a new --workdir."
            )
        return None

    def _load(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        self.wait()
        if damage := self._damage(step, tuple(like)):
            raise _DamagedError(damage)
        path = self._directory / str(step)
        try:
            return load_arrays(path, like)
        except UnreadableError as error:
            raise _DamagedError(self._damaged(step, str(error))) from error
        except MismatchError as error:
            raise InputError(
                f"{path}: the {_CONTENT_OF[error.part]} of this checkpoint is not the one that "
                f"config.json describes:",
                *error.lines,
            ) from error

    def _damage(self, step: int, parts: Sequence[str] | None = None) -> str | None:
        path = self._directory / str(step)
        found = manifest.damage(path, parts)
        if found is None and (saved := manifest.read_content(path)) and saved.step != step:
            found = f"its state is that of step {saved.step}"
        return None if found is None else self._damaged(step, found)

    def _damaged(self, step: int, what: str) -> str:
        path = self._directory / str(step)
        return f"{path}: this checkpoint is damaged and not used: {what}."


def _is_ours(path: Path) -> bool:
    """Return whether a directory is a checkpoint, whole or damaged, which may be removed.

    `checkpoints` may be a link, and a run from a stranger could lead it to a folder of the user.
    """
    names = {each.name for each in path.iterdir()}
    return not names or not names.isdisjoint((manifest.NAME, *_CONTENT_OF, "_CHECKPOINT_METADATA"))


def _check_ours(*paths: Path) -> None:
    """Refuse to remove or replace a directory that is not a checkpoint.

    Raises:
      FileExistsError: one of the paths is a directory, but not a checkpoint.
    """
    for path in paths:
        if path.is_dir() and not _is_ours(path):
            raise FileExistsError(f"{path} is not a checkpoint")


_CONTENT_OF = {"variables": "model", "training": "optimizer"}


def _metrics(path: Path) -> Metrics | None:
    content = manifest.read_content(path)
    return None if content is None else content.metrics
