"""States on disk, with Orbax: the latest, to go on from, and the best, to caption with."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from jaxcap.errors import InputError
from jaxcap.state import TrainState


class Checkpoints:
    """The directory `checkpoints/` of a run, one subdirectory per kept step.

    Each holds `variables` (parameters and batch statistics: all that captioning needs) and
    `training` (step and optimizer state), saved apart so that each can be read alone.
    """

    def __init__(self, directory: Path, *, metric: str, reading_only: bool = False):
        """Opens the directory, making it if need be.

        Args:
          metric: name of the score, given to `save`, that decides which step is best.
          reading_only: leave half-written steps alone: they may be those of a training
            that is saving at this moment.
        """
        self._metric = metric
        policies = ocp.training.preservation_policies
        with _quiet_orbax():
            self._checkpointer = ocp.training.Checkpointer(
                directory.absolute(),
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(1),
                        # Later of equals, so that a score stuck at zero keeps the newest.
                        policies.BestN(get_metric_fn=self._score, n=1),
                    ]
                ),
                save_decision_policy=_Always(),
                cleanup_tmp_directories=not reading_only,
            )

    def _score(self, metrics: Any) -> float:
        return float(metrics[self._metric])

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    def save(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Writes the state; Orbax renames it into place when it is whole."""
        self._checkpointer.save_checkpointables(
            int(state.step),
            {
                "variables": state.variables,
                "training": {"step": state.step, "opt_state": state.opt_state},
            },
            metrics={name: float(value) for name, value in metrics.items()},
        )

    @property
    def latest_step(self) -> int | None:
        """The newest step kept, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else int(latest.step)

    @property
    def best_step(self) -> int | None:
        """The step with the highest score, the later of equals, or None."""
        scored = [
            (self._score(c.metrics), int(c.step))
            for c in self._checkpointer.checkpoints
            if c.metrics is not None
        ]
        return max(scored)[1] if scored else self.latest_step

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state at `step`.

        Args:
          like: a state of the same shapes and types; its values are of no account.
        """
        loaded = self._load(
            step,
            {
                "variables": like.variables,
                "training": {"step": like.step, "opt_state": like.opt_state},
            },
        )
        return TrainState(**loaded["variables"], **loaded["training"])

    def restore_variables(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """Parameters and batch statistics at `step`, without the optimizer's state."""
        variables: dict[str, Any] = self._load(step, {"variables": like})["variables"]
        return variables

    def _load(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like
        )
        self._check(step, like["variables"])
        try:
            with _quiet_orbax():
                loaded: dict[str, Any] = self._checkpointer.load_checkpointables(step, abstract)
        except (ValueError, KeyError, OSError) as error:
            raise InputError(self._damaged(step)) from error
        # A copy of JAX's own: restored buffers may be shared, and training donates its state.
        return jax.tree.map(jnp.copy, loaded)

    def _check(self, step: int, like: dict[str, Any]) -> None:
        """Compares shapes before loading: Orbax's own complaint would fill a screen."""
        try:
            with _quiet_orbax():
                metadata = self._checkpointer.checkpointables_metadata(step).metadata
            found = _shapes(metadata["variables"])
        except Exception as error:  # whatever a damaged directory may cause
            raise InputError(self._damaged(step)) from error
        if not found:
            raise InputError(self._damaged(step))
        expected = _shapes(like)
        differ = [
            f"\n  {name}: {found.get(name, 'absent')}, expected {expected.get(name, 'absent')}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        if differ:
            more = f"\n  and {len(differ) - 3} more" if len(differ) > 3 else ""
            raise InputError(
                f"{self._checkpointer.directory / str(step)}: this checkpoint holds another model "
                f"than config.json describes:{''.join(differ[:3])}{more}"
            )

    def _damaged(self, step: int) -> str:
        return (
            f"{self._checkpointer.directory / str(step)}: this checkpoint is damaged; "
            "delete it, and the one before is used."
        )


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.shape)
        for path, x in jax.tree_util.tree_leaves_with_path(variables)
    }


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keeps Orbax's warnings, pages long, from the terminal: an `InputError` says it shorter."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Always:
    """The caller decides when to save; Orbax's default would skip some steps."""

    def should_save(self, step: Any, previous_steps: Any, *, context: Any) -> bool:
        return True
