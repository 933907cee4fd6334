"""Measure the peak memory of training."""

from __future__ import annotations

import sys

import jax

_GIB = 2**30


def peak_memory() -> dict[str, float]:
    """Return the peak memory so far, in GiB, of the fullest device of this process.

    Returns:
      `device_peak_gib` and, if JAX reports it, `device_limit_gib`, the memory JAX may use. On CPUs,
      where JAX reports neither, `process_peak_gib` of the whole process, with data and compiler;
      on Windows, nothing.
    """
    found = [stats for each in jax.local_devices() if (stats := each.memory_stats())]
    peaks = [stats for stats in found if "peak_bytes_in_use" in stats]
    if not peaks:
        return _process_peak()
    fullest = max(peaks, key=lambda stats: stats["peak_bytes_in_use"])
    memory = {"device_peak_gib": fullest["peak_bytes_in_use"] / _GIB}
    if "bytes_limit" in fullest:
        memory["device_limit_gib"] = fullest["bytes_limit"] / _GIB
    return memory


def _process_peak() -> dict[str, float]:
    try:
        import resource  # not on Windows
    except ImportError:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of macOS counts bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"process_peak_gib": peak * unit / _GIB}
