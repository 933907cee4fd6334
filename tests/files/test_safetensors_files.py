"""Test `.safetensors` files on bytes written by hand, damaged files and round trips."""

import json

import ml_dtypes
import numpy as np
import pytest

from jaxcap.files.safetensors_files import (
    read_safetensors_file,
    write_safetensors_file,
)
from jaxcap.messages.errors import InputError


def _by_hand(header, data):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


TWO = _by_hand(
    {
        "__metadata__": {"from": "hand"},
        "brain": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "whole": {"dtype": "F32", "shape": [1, 3], "data_offsets": [4, 16]},
    },
    np.array([1.5, -2], ml_dtypes.bfloat16).tobytes() + np.array([1, 2, 3], "<f4").tobytes(),
)


def test_reads_bytes_written_by_hand(tmp_path):
    (tmp_path / "a").write_bytes(TWO)
    found = read_safetensors_file(tmp_path / "a")
    assert found.keys() == {"brain", "whole"}
    assert found["brain"].dtype == ml_dtypes.bfloat16
    assert found["brain"].tolist() == [1.5, -2]
    assert found["whole"].dtype == np.float32
    assert found["whole"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64"])
def test_equals_what_pytorch_writes(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    values = torch.arange(-4, 4).reshape(2, 4).to(getattr(torch, dtype))
    safetensors_torch.save_file({"values": values}, tmp_path / "a.safetensors")
    found = read_safetensors_file(tmp_path / "a.safetensors")["values"]
    assert found.dtype.name == dtype
    np.testing.assert_array_equal(found.astype(np.float64), values.double().numpy())


def test_written_files_are_read_back_and_deterministic(tmp_path):
    strided = np.arange(6, dtype=np.float32).reshape(2, 3).T
    about = {"source": "größe\udcff.h5", "encoder": "x", "layout": "y", "format": "z"}
    contents = set()
    for name in ("a", "b", "c", "d"):
        path = tmp_path / f"{name}.safetensors"
        scalar = np.array(2.5, np.float16)
        write_safetensors_file(path, {"t": strided, "u": strided[0], "s": scalar}, about)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    found = read_safetensors_file(path)
    np.testing.assert_array_equal(found["t"], strided)
    np.testing.assert_array_equal(found["s"], scalar)
    assert found["s"].shape == ()
    text = contents.pop()
    header = json.loads(text[8 : 8 + int.from_bytes(text[:8], "little")])
    assert json.loads(header["__metadata__"]["jaxcap"]) == about


@pytest.mark.slow
def test_permissions_follow_the_umask(tmp_path):
    (tmp_path / "plain").touch()
    write_safetensors_file(tmp_path / "a.safetensors", {"t": np.zeros(1)}, {})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="none"):
        write_safetensors_file(tmp_path / "none" / "a.safetensors", {"t": np.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == []


def test_no_truncated_or_extended_file_is_read(tmp_path):
    path = tmp_path / "cut.safetensors"
    for content in [TWO[:length] for length in range(len(TWO))] + [TWO + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cut\.safetensors: damaged or cut short"):
            read_safetensors_file(path)


def test_no_flipped_bit_escapes_as_another_exception(tmp_path):
    path = tmp_path / "a.safetensors"
    content, refused = bytearray(TWO), 0
    for i in range(len(content)):
        content[i] ^= 1 << (i % 8)
        path.write_bytes(content)
        try:
            found = read_safetensors_file(path)
            assert sum(tensor.nbytes for tensor in found.values()) == 16
        except InputError:
            refused += 1
        content[i] ^= 1 << (i % 8)
    assert refused > 100


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 4]},
        {"dtype": "O", "shape": [1], "data_offsets": [0, 4]},
    ],
)
def test_tensors_stay_within_the_file(tensor, tmp_path):
    (tmp_path / "a").write_bytes(_by_hand({"t": tensor}, bytes(4)))
    with pytest.raises(InputError, match="damaged or cut short"):
        read_safetensors_file(tmp_path / "a")


def test_a_file_of_another_kind_is_not_called_damaged(tmp_path):
    (tmp_path / "a").write_text('{"image_id": 1, "caption": "a dog"}')
    with pytest.raises(InputError, match=r"a: not a \.safetensors file\.$"):
        read_safetensors_file(tmp_path / "a")


def test_a_header_cannot_be_longer_than_the_file(tmp_path):
    (tmp_path / "a").write_bytes((2**40).to_bytes(8, "little") + TWO[8:])
    with pytest.raises(InputError, match="its header has 1,099,511,627,776 bytes"):
        read_safetensors_file(tmp_path / "a")


@pytest.mark.parametrize(
    ("dtype", "size", "message"),
    [("F4", 1, "type float4_e2m1fn_x2 of its"), ("F8_E4M3", 2, "type float8_e4m3fn of its")],
)
def test_types_unknown_to_numpy_are_refused(dtype, size, message, tmp_path):
    tensor = {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}
    (tmp_path / "a").write_bytes(_by_hand({"t": tensor}, bytes(size)))
    with pytest.raises(InputError, match=message):
        read_safetensors_file(tmp_path / "a")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none: cannot be read"):
        read_safetensors_file(tmp_path / "none")
    with pytest.raises(InputError):
        read_safetensors_file(tmp_path)
