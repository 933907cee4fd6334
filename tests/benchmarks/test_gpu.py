"""The GPU campaign runs to its end, and its PyTorch models are the published ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import jaxcap

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),  # the package pads for one image size alone
    [
        ("resnet50", 64),
        ("efficientnet_lite0", 224),
        ("efficientnet_lite1", 240),
        ("efficientnet_lite2", 260),
    ],
)
def test_the_pytorch_encoders_are_the_published_ones(name: str, side: int) -> None:
    torch = pytest.importorskip("torch")
    import pytorch_encoders
    import references

    ours = pytorch_encoders.ENCODERS[name]().train()
    if name == "resnet50":
        whole = references.torchvision().models.resnet50(weights=None)
        theirs = torch.nn.Sequential(*list(whole.children())[:-2])
    else:
        package = pytest.importorskip("efficientnet_lite_pytorch")
        whole = package.EfficientNet.from_name(name.replace("_", "-"))
        whole._global_params = whole._global_params._replace(drop_connect_rate=0.0)
        theirs = whole.extract_features
    missing, unexpected = whole.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert {key.rpartition(".")[0] for key in missing} in ({"fc"}, {"_fc"})
    whole.train()
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)


@pytest.mark.slow
def test_the_campaign_runs_to_its_end_and_records_every_row(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    program = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--smoke"]
    done = subprocess.run(
        [*program, "--output", str(tmp_path / "results"), "--rows", "device", "peak"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [result["row"] for result in record] == ["device", "peak", "peak"]
    assert (tmp_path / "results" / "results.md").read_text().count("\n") == len(record) + 2


@pytest.mark.slow
def test_every_row_measures(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    import gpu

    model = jaxcap.load(tiny_run)  # compiles in less time than the packaged one
    monkeypatch.setattr(jaxcap, "load", lambda: model)
    assert list(gpu.ROWS) == list(gpu.LIMITS)
    # Training one encoder is enough: both rows run the same lines.
    rows = [row for row in gpu.ROWS if row not in ("device", "peak", "train resnet50")]
    record = {row: list(gpu.ROWS[row](True)) for row in rows}
    assert all(json.loads(json.dumps(record)).values())
    assert all(result["loss, relative difference"] < 1e-5 for result in record["parity"])
    (export,) = record["export"]
    assert export["same captions"] == "2 of 2"


@pytest.mark.slow
def test_a_row_that_fails_is_recorded_and_the_others_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    program = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--smoke"]
    done = subprocess.run(
        [*program, "--output", str(tmp_path), "--rows", "parity", "device", "--seconds", "2"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    record = json.loads((tmp_path / "results.json").read_text())
    failed = {result["row"]: result["failed"] for result in record if "failed" in result}
    assert failed == {"parity": "over 2 s", "device": "no time was left"}
