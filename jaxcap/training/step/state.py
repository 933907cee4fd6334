"""What training changes: arrays, and nothing else."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


@flax.struct.dataclass
class TrainState:
    """Everything a step reads and replaces; a plain pytree of arrays.

    Attributes:
      step: optimizer steps taken; with the seed it also fixes dropout and the data position.
      params: `{"encoder": …, "decoder": …}`.
      batch_stats: running means and variances of the encoder's batch normalisation.
      opt_state: Optax's.
      average: moving average of `params`, which then is what is evaluated and kept; None without.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any = None

    @classmethod
    def create(
        cls, variables: dict[str, Any], tx: optax.GradientTransformation, *, average: bool = False
    ) -> TrainState:
        """The state before the first step."""
        params = variables["params"]
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables["batch_stats"],
            opt_state=tx.init(params),
            # A copy, for a buffer that is in two places cannot be donated.
            average=jax.tree.map(jnp.copy, params) if average else None,
        )

    @property
    def variables(self) -> dict[str, Any]:
        """What captions, as `model.apply` takes it."""
        params = self.params if self.average is None else self.average
        return {"params": params, "batch_stats": self.batch_stats}

    @property
    def training(self) -> dict[str, Any]:
        """All that is not in `variables`."""
        rest = {"step": self.step, "opt_state": self.opt_state}
        return rest if self.average is None else {**rest, "params": self.params}

    @classmethod
    def from_parts(cls, variables: dict[str, Any], training: dict[str, Any]) -> TrainState:
        """The state that these are `variables` and `training` of."""
        if "params" not in training:
            return cls(**variables, **training)
        return cls(**{**variables, **training}, average=variables["params"])
