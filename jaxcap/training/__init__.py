"""The outer loop of training: data in, steps, evaluation, checkpoints, a log.

All that touches disk, clock and terminal during a training is here; what it computes is in
`steps.train_step`.
"""

from __future__ import annotations

from jaxcap.training.interruption import Interrupted
from jaxcap.training.loop import Summary
from jaxcap.training.setup import train

__all__ = ["Interrupted", "Summary", "train"]
