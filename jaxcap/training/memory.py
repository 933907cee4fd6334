"""How much memory a training takes."""

from __future__ import annotations

import sys

import jax

_GIB = 2**30


def peak_memory() -> dict[str, float]:
    """The most memory used at once so far, by the fullest device of this process, in GiB.

    Returns:
      `device_peak_gib`, and `device_limit_gib`, what JAX may take of that device, where it tells.
      On a CPU, whose memory JAX does not count: `process_peak_gib`, the whole process's, data and
      compiler included; nothing where the system does not tell either (Windows).
    """
    found = [stats for each in jax.local_devices() if (stats := each.memory_stats())]
    peaks = [stats for stats in found if "peak_bytes_in_use" in stats]
    if not peaks:
        return _of_process()
    fullest = max(peaks, key=lambda stats: stats["peak_bytes_in_use"])
    memory = {"device_peak_gib": fullest["peak_bytes_in_use"] / _GIB}
    if "bytes_limit" in fullest:
        memory["device_limit_gib"] = fullest["bytes_limit"] / _GIB
    return memory


def _of_process() -> dict[str, float]:
    try:
        import resource  # not on Windows
    except ImportError:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of macOS counts bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"process_peak_gib": peak * unit / _GIB}
