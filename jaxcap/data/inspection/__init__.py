"""What a data set holds, and what of it will hurt a training: looked at before, not after."""

from __future__ import annotations

from jaxcap.data.inspection.gather import inspect
from jaxcap.data.inspection.hazards import DataWarning, caption_warnings, warnings
from jaxcap.data.inspection.statistics import DataStatistics

__all__ = ["DataStatistics", "DataWarning", "caption_warnings", "inspect", "warnings"]
