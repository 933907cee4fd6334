"""Inspect a data set before training, and warn about what will hurt."""

from __future__ import annotations

from jaxcap.datasets.inspection.data_statistics import DataStatistics
from jaxcap.datasets.inspection.hazards import DataWarning, caption_warnings, warnings
from jaxcap.datasets.inspection.inspector import inspect

__all__ = ["DataStatistics", "DataWarning", "caption_warnings", "inspect", "warnings"]
