"""The training state: arrays only."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


@flax.struct.dataclass
class TrainState:
    """Everything a step reads and replaces, as a pytree of arrays.

    Attributes:
      step: the number of optimizer steps taken. Together with the seed it also determines dropout
        and the position in the data.
      params: `{"encoder": …, "decoder": …}`.
      batch_stats: running means and variances of batch normalisation.
      opt_state: the state of the Optax transformation.
      average: a moving average of `params`, or None. Evaluation and captioning use it if present.
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
        """Create the state before the first step.

        Args:
          variables: `{"params": …, "batch_stats": …}`, as `init_variables` returns them.
          average: whether to keep a moving average of the parameters.
        """
        params = variables["params"]
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables["batch_stats"],
            opt_state=tx.init(params),
            # A buffer that appears twice in the state cannot be donated.
            average=jax.tree.map(jnp.copy, params) if average else None,
        )

    @property
    def variables(self) -> dict[str, Any]:
        """The variables to caption with, as `model.apply` takes them."""
        params = self.params if self.average is None else self.average
        return {"params": params, "batch_stats": self.batch_stats}

    @property
    def training(self) -> dict[str, Any]:
        """The rest of the state, needed only to continue training."""
        rest = {"step": self.step, "opt_state": self.opt_state}
        return rest if self.average is None else {**rest, "params": self.params}

    @classmethod
    def from_parts(cls, variables: dict[str, Any], training: dict[str, Any]) -> TrainState:
        """Rebuild the state from its `variables` and `training`."""
        if "params" not in training:
            return cls(**variables, **training)
        return cls(**{**variables, **training}, average=variables["params"])
