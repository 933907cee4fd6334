"""Short forms of the load test of `jaxcap serve` and of its run with damaged requests."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import serve

    return serve.write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((64, 64))
        pixels.save(folder / f"{number}.png")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.mark.slow
def test_no_request_is_lost_over_a_restart(model: Path, images: list[bytes]) -> None:
    import serve

    assert serve.load_test(model, images, requests=200, clients=16, bad=0.1) == []


@pytest.mark.slow
def test_damaged_requests_do_no_harm(model: Path, images: list[bytes]) -> None:
    import serve

    assert serve.mutated_test(model, images[0], tries=range(150)) == []
