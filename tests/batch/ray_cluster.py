"""A cluster of Ray on this machine, for the tests."""

from __future__ import annotations

from typing import Any


def start() -> Any:
    """Start a cluster of two processors, and return the module `ray`."""
    import ray

    for attempt in range(4):
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            break
        except Exception:  # Ray gives up after 30 seconds, which a busy machine may exceed
            ray.shutdown()
            if attempt == 3:
                raise
    return ray
