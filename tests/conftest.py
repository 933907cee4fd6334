"""Every test runs with the shapes of the signatures checked, and with two (CPU) devices.

Nothing may import jaxcap before this file has: pytest loads it first.
"""

import jax
import jaxtyping
import pytest

# From here on each call of a jaxcap function checks its arguments' shapes and types.
jaxtyping.install_import_hook("jaxcap", "beartype.beartype")

# Two devices, so that data parallelism is tested where there is but one processor.
jax.config.update("jax_num_cpu_devices", 2)


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled programs between runs, beside pytest's own cache."""
    assert config.cache is not None
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # Two test runs at once may meet a half-written entry; it is then compiled again.
    config.addinivalue_line(
        "filterwarnings", "ignore:Error (reading|writing) persistent compilation cache"
    )
