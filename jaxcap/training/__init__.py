"""Training: one pure step in `step/`, and the loop around it that owns disk, clock and terminal.

Read `step.train_step` first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcap.training.interruption import Interrupted
    from jaxcap.training.loop import Summary
    from jaxcap.training.setup import train

__all__ = ["Interrupted", "Summary", "train"]


def __getattr__(name: str) -> Any:
    # `import jaxcap.training.step` must not import the loop with its checkpoints and data sets.
    if name in __all__:
        from jaxcap.training import interruption, loop, setup

        return getattr({"Interrupted": interruption, "Summary": loop, "train": setup}[name], name)
    raise AttributeError(f"module 'jaxcap.training' has no attribute '{name}'")
