"""What training changes: arrays, and nothing else."""

from __future__ import annotations

from typing import Any

import flax.struct
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
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any

    @classmethod
    def create(cls, variables: dict[str, Any], tx: optax.GradientTransformation) -> TrainState:
        """The state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=tx.init(variables["params"]),
        )

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}
