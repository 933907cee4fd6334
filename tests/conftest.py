"""Check the shapes in signatures during every test, and give every test two CPU devices.

pytest loads this file first, so no other file imports jaxcap before it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import chromium
import hypothesis
import jax
import jaxtyping
import pytest
import shared_programs as programs

# Imported before the hook: it checks its own types with messages for the user, which the tests
# expect to see.
import jaxcap.config  # noqa: F401

if TYPE_CHECKING:
    from jaxcap.config import Config

# From here on, each call of a jaxcap function checks the shapes and types of its arguments.
jaxtyping.install_import_hook("jaxcap", "beartype.beartype")

# Some tests need the captions and photographs of Flickr8k: in the folder that JAXCAP_FLICKR8K
# names, or next to the checkout. Without them, those tests are skipped.
_BESIDE = Path(__file__).parents[2] / "shared" / "data" / "flickr8k"
if _BESIDE.is_dir():
    os.environ.setdefault("JAXCAP_FLICKR8K", str(_BESIDE))

# Use the same examples in every run, so that a failure points to the change that caused it. To
# search for new ones: pytest --hypothesis-profile default.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

# Most programs run for milliseconds, so optimising them would take longer than it saves, and XLA's
# older emitters of fused loops compile a training step in a third of the time. Child processes
# inherit the flags, and so find the same programs in the cache.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    + os.environ.get("XLA_FLAGS", "")
)

# Threads of PyTorch that wait for each other on a busy processor took ten times as long as one.
os.environ["OMP_NUM_THREADS"] = "1"

# Looking for garbage among all objects that tracing makes took a tenth of the time.
gc.set_threshold(100_000, 20, 20)

# Two devices, so that data parallelism is tested on a machine with one processor.
jax.config.update("jax_num_cpu_devices", 2)


def pytest_configure(config: pytest.Config) -> None:
    """Share compiled programs between tests, workers, child processes and runs."""
    assert config.cache is not None
    cache = str(config.cache.mkdir("jax"))
    jax.config.update("jax_compilation_cache_dir", cache)
    # Small programs too: the tests compile thousands of them, which is most of their time.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("xdg"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # Concurrent workers may meet a half-written entry, which is then compiled again.
    config.addinivalue_line(
        "filterwarnings", "ignore:Error (reading|writing) persistent compilation cache"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, so that both workers end at the same time.

    Each worker is given half of the list, and takes from the end of the other's when it is done.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    half = len(items) // 2
    for part in (slice(half), slice(half, None)):
        items[part] = sorted(items[part], key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def _room() -> Iterator[None]:
    """Drop compiled programs once they take gigabytes of memory."""
    yield
    with contextlib.suppress(OSError):  # only Linux has this file
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > 2.5e9:
            jax.clear_caches()


@pytest.fixture(scope="module")
def shared_programs() -> Iterator[None]:
    """Compile equal functions of the package once for all tests that use this fixture.

    For tests that train or load the same captioner several times, and patch nothing that is jitted.
    """
    with programs.shared():
        yield


@pytest.fixture(scope="module")
def long_trainings() -> Iterator[None]:
    """As `shared_programs`, with optimised steps: for trainings of dozens of steps."""
    with programs.shared(optimise_steps=True):
        yield


# A data set and a training run that take seconds, shared by all tests of a session, in all workers.
# They import jaxcap inside, after the hook above.


def _made_once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], object]) -> Path:
    """Return a path that the first worker makes; the others wait until it is finished."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which all workers share
    with (base / f"{name}.made").open("a") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        if not os.fstat(made.fileno()).st_size:
            make(base / name)
            made.write("yes")
    return base / name


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `data_dir` with 50 training, 6 dev and 5 test scenes of the data set shapes."""
    from jaxcap.datasets.building import build
    from jaxcap.datasets.shapes import recipe

    scenes = recipe({"train": 50, "dev": 6, "test": 5})
    return _made_once("tiny_data", tmp_path_factory, functools.partial(build, scenes))


@pytest.fixture(scope="session")
def tiny_config(tiny_data: Path) -> Config:
    """Five epochs of six steps, with crops and dropout to involve randomness."""
    from jaxcap import config

    return config.Config(
        data=config.DataConfig(
            name="shapes",
            data_dir=str(tiny_data),
            image_size=32,
            min_count=1,
            length_buckets=(24,),
            crop_min_scale=0.8,
        ),
        encoder=config.EncoderConfig(name="resnet_small"),
        decoder=config.DecoderConfig(
            hidden_size=32,
            embedding_size=16,
            attention_size=16,
            scoring="dot",
            output_dropout=0.1,
        ),
        train=config.TrainConfig(
            batch_size=8, epochs=5, learning_rate=2e-2, warmup_epochs=0.5, log_every=4
        ),
        search=config.SearchConfig(beam_size=2, max_length=12),
        evaluation=config.EvaluationConfig(batch_size=4),
    )


@pytest.fixture(scope="session")
def tiny_run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished training run. Tests that write into it copy it first."""
    from rich.console import Console

    from jaxcap.training import train

    with programs.shared(optimise_steps=True):
        return _made_once(
            "tiny",
            tmp_path_factory,
            lambda path: train(tiny_config, path, console=Console(quiet=True)),
        )


# A real browser, for the tests of pages.


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    program = chromium.find()
    if program is None:
        pytest.skip("neither Chromium nor Chrome is installed")
    page = chromium.Page(program, tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def page(browser: chromium.Page) -> chromium.Page:
    """A browser page with a window of the default size."""
    browser.window(1280, 900)
    return browser
