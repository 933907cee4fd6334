"""States on disk, with Orbax: the latest, to go on from, and the best, to caption with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

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

    def __init__(self, directory: Path, *, metric: str):
        """Opens the directory, making it if need be.

        Args:
          metric: name of the score, given to `save`, that decides which step is best.
        """
        self._metric = metric
        policies = ocp.training.preservation_policies
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
            cleanup_tmp_directories=True,
        )

    def _score(self, metrics: Any) -> float:
        return float(metrics[self._metric])

    def __enter__(self) -> Self:
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
          like: a state of the same shapes, of arrays or `jax.ShapeDtypeStruct`s.
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
        try:
            loaded: dict[str, Any] = self._checkpointer.load_checkpointables(step, abstract)
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise InputError(
                f"{self._checkpointer.directory / str(step)}: this checkpoint does not hold the "
                f"model that config.json describes, or is damaged ({error})."
            ) from error
        # A copy of JAX's own: restored buffers may be shared, and training donates its state.
        return jax.tree.map(jnp.copy, loaded)


class _Always:
    """The caller decides when to save; Orbax's default would skip some steps."""

    def should_save(self, step: Any, previous_steps: Any, *, context: Any) -> bool:
        return True
