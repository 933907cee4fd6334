"""Weight files are recognised by their content, whatever their suffix."""

import gzip
import io
import os
import zipfile

import numpy as np
import pytest

from jaxcap.files.safetensors_files import (
    read_safetensors_file,
    write_safetensors_file,
)
from jaxcap.messages.errors import InputError
from jaxcap.model.encoders.weights.weight_files import SUFFIXES, read_weight_file

KERNEL = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)


def _torch(path, legacy):
    torch = pytest.importorskip("torch")
    state = {"conv1.weight": torch.from_numpy(KERNEL), "bn1.num_batches_tracked": torch.tensor(1)}
    state["fc.bias"] = torch.zeros(3)
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


def _safetensors(path):
    write_safetensors_file(path, {"conv1.weight": KERNEL, "classifier.1.bias": KERNEL[0, 0]}, {})


def _keras_safetensors(path):
    write_safetensors_file(path, {"conv1_conv/kernel": KERNEL}, {})


def _keras(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for layer in ("conv1_conv", "predictions"):
            file[f"{layer}/{layer}/kernel:0"] = KERNEL
            file[layer].attrs["weight_names"] = [f"{layer}/kernel:0".encode()]
        file.attrs["layer_names"] = [b"conv1_conv", b"predictions"]


def _keras_archive(path):
    h5py = pytest.importorskip("h5py")
    inner = io.BytesIO()
    with h5py.File(inner, "w") as file:
        file["layers/conv2d/vars/0"] = KERNEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", inner.getvalue())
        archive.writestr("config.json", "{}")


FILES = {
    "PyTorch .pth (zip)": (lambda path: _torch(path, False), "torch", "conv1.weight", "fc.bias"),
    "PyTorch .pth (legacy)": (lambda path: _torch(path, True), "torch", "conv1.weight", "fc.bias"),
    "safetensors": (_safetensors, "torch", "conv1.weight", "classifier.1.bias"),
    "Keras .h5": (_keras, "keras", "conv1_conv/kernel", "predictions/kernel"),
    "Keras .keras": (_keras_archive, "keras order", "conv2d_0/kernel", None),
}


@pytest.mark.parametrize("suffix", [".pth", ".h5", ".safetensors", ""])
@pytest.mark.parametrize("format", FILES)
def test_a_file_is_recognised_whatever_its_suffix(format, suffix, tmp_path):
    make, naming, name, classifier = FILES[format]
    make(tmp_path / f"a{suffix}")
    file = read_weight_file(tmp_path / f"a{suffix}")
    assert (file.format, file.naming) == (format, naming)
    assert list(file.tensors) == [name]
    np.testing.assert_array_equal(file.tensors[name], KERNEL)
    assert list(file.classifier) == ([] if classifier is None else [classifier])


def test_keras_names_in_safetensors(tmp_path):
    _keras_safetensors(tmp_path / "a.safetensors")
    assert read_weight_file(tmp_path / "a.safetensors").naming == "keras"


HTML = b"\n<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 94653016\n"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (HTML, "a web page, not weights"),
        (b"<html>403 Forbidden</html>", "a web page, not weights"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
        (LFS, "a Git LFS pointer"),
        (gzip.compress(b"weights", mtime=0), "a compressed archive"),
        (b"\x93NUMPY\x01\x00", r"not a weight file: it begins with b'\\x93NUMPY"),
        (b'{"error": "not found"}', "not a weight file"),
        (b"\x89HDF\r\n", "not a weight file"),
    ],
)
def test_other_files_are_recognised(content, message, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"weights\{suffix}: {message}"):
        read_weight_file(path)


def test_other_zip_files_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", kernel=KERNEL)
    with pytest.raises(InputError, match=r"not from PyTorch.*or Keras.*it has kernel\.npy"):
        read_weight_file(tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[:100])
    with pytest.raises(InputError, match=r"cut\.pth: an incomplete zip file"):
        read_weight_file(tmp_path / "cut.pth")


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "resnet50_notop.h5").touch()
    with pytest.raises(InputError, match=r"no such file\. Did you mean '.*resnet50_notop\.h5'\?"):
        read_weight_file(tmp_path / "resnet50_no_top.h5")
    with pytest.raises(InputError, match=r"a\.h5: cannot be read: there is no such file\.$"):
        read_weight_file(tmp_path / "none" / "a.h5")


def test_a_folder_lists_the_files_in_it(tmp_path):
    (tmp_path / "b.pth").touch()
    (tmp_path / "readme.txt").touch()
    with pytest.raises(InputError, match=r"a folder; give a weight file.* It has: b\.pth\.$"):
        read_weight_file(tmp_path)


@pytest.mark.parametrize("format", FILES)
def test_no_truncated_file_is_read(format, tmp_path):
    FILES[format][0](tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in {0, 1, 4, 9, *range(17, len(content), len(content) // 12), len(content) - 1}:
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(InputError, match="cut"):
            read_weight_file(tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("format", FILES)
def test_damage_is_refused_or_leaves_whole_tensors(format, tmp_path):
    FILES[format][0](tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for i in rng.integers(len(content), size=rng.integers(1, 20)):
            damaged[i] = rng.integers(256)
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            file = read_weight_file(tmp_path / "damaged")
        except InputError:
            continue
        assert sum(tensor.nbytes for tensor in file.tensors.values()) <= len(content)


@pytest.mark.parametrize("make", [_safetensors, _keras])
def test_a_file_larger_than_the_memory_is_not_read(make, tmp_path):
    path = tmp_path / "weights"
    make(path)
    os.truncate(path, 10**13)  # without blocks on the disk
    with pytest.raises(InputError, match=r"weights: has 10,000\.0 GB, but this machine has only"):
        read_weight_file(path)
    with pytest.raises(InputError, match=r"weights: has 10,000\.0 GB, but this machine has only"):
        read_safetensors_file(path)
