"""docs/extending.md: a decoder and an encoder in a user's own file, outside the package."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxcap
from jaxcap.config import DecoderConfig
from jaxcap.config.extensions import load_extension
from jaxcap.messages.errors import InputError
from jaxcap.model.decoders import create_decoder
from jaxcap.model.encoders import encoder_spec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page, and a run of two steps in it."""
    folder = tmp_path_factory.mktemp("outside")
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    decoder, encoder, config, _ = re.findall(r"```python\n(.*?)```", page, re.S)
    (folder / "my_models.py").write_text(f"{decoder}\n\n{encoder}")
    (folder / "my_config.py").write_text(config)
    options = {
        "data.name": "shapes",
        "data.data-dir": tiny_data,
        "data.image-size": 64,
        "data.min-count": 1,
        "decoder.hidden-size": 16,
        "decoder.embedding-size": 8,
        "train.epochs": 1,
        "train.batch-size": 25,
    }
    arguments = [str(x) for option, value in options.items() for x in (f"--{option}", value)]
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "my_config.py", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(autouse=True)
def _not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test as another process would, without the user's module."""
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    monkeypatch.delenv("JAXCAP_MODULES", raising=False)


@pytest.mark.slow
def test_a_run_of_ones_own_model_is_loaded_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("JAXCAP_MODULES", "others, my_models")
    model = jaxcap.load(folder / "runs" / "my_config")
    assert type(model.model.decoder).__name__ == "GRUDecoder"
    assert model.config.encoder.name == "my_models:TINY"
    (found,) = model.caption([np.zeros((64, 64, 3), np.uint8)])
    assert found.error is None
    assert len(found.captions) > 0


@pytest.mark.slow
def test_a_stored_configuration_imports_nothing_by_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(InputError, match=r"encoder\.name is 'my_models:TINY'.*JAXCAP_MODULES=my_"):
        jaxcap.load(folder / "runs" / "my_config")
    assert "my_models" not in sys.modules


def test_an_allowed_module_must_be_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXCAP_MODULES", "my_models")
    with pytest.raises(InputError, match=r"ModuleNotFoundError.*PYTHONPATH"):
        encoder_spec("my_models:TINY")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("os:system", "not a subclass of"),
        ("json:JSONDecoder", "not a subclass of"),
        ("jaxcap.model.decoders:Decoder", "not a subclass of"),
        ("sys:GRU", "sys defines no GRU"),
        ("os:sytem", "Did you mean 'system'"),
        ("os:", "module:Object"),
        (":x", "module:Object"),
        ("../os:system", "module:Object"),
        ("lst", r"Did you mean 'lstm'\? Known decoders: lstm, attention, .*, sca;"),
    ],
)
def test_other_decoders_are_refused(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        create_decoder(DecoderConfig(name=name), 10)


def test_other_encoders_are_refused() -> None:
    with pytest.raises(InputError, match=r"is a function; it must be a .*EncoderSpec"):
        encoder_spec("os.path:join")
    assert load_extension("os.path:join", option="any") is os.path.join
