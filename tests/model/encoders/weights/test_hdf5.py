"""Test the HDF5 reader against h5py, on files that it must refuse, and on damaged files."""

import re
import struct
import time

import ml_dtypes
import numpy as np
import pytest

from jaxcap.model.encoders.weights.hdf5 import Dataset, Group, Hdf5Error, read_hdf5

h5py = pytest.importorskip("h5py")
pytest.importorskip("pyfive")


def _read(path):
    return read_hdf5(path.read_bytes())


def _walk(group, prefix=""):
    for name, member in group.members.items():
        yield prefix + name, member
        if isinstance(member, Group):
            yield from _walk(member, f"{prefix}{name}/")


def _small(path, **options):
    with h5py.File(path, "w", **options) as file:
        file.attrs["layer_names"] = [b"a", b"bc"]
        group = file.create_group("a")
        group.attrs["weight_names"] = ["a/kernel", "a/bias"]
        group["a/kernel"] = np.arange(6, dtype="<f4").reshape(2, 3)
        group["a/bias"] = np.arange(3, dtype="<f4")
    return path.read_bytes()


@pytest.mark.parametrize("options", [{}, {"track_order": True}, {"libver": "latest"}])
@pytest.mark.parametrize("members", [1, 8, 9, 300])
def test_groups_of_any_size_equal_h5py(members, options, tmp_path):
    # From 9 names on a symbol table splits; 300 make a tree of two levels. The later forms of
    # HDF5 keep more than 8 names in another tree.
    path = tmp_path / "a.h5"
    rng = np.random.default_rng(members)
    with h5py.File(path, "w", **options) as file:
        for i in rng.permutation(members):
            file[f"group_{i}/inner/values"] = rng.standard_normal((i % 4, 2), np.float32)
            file[f"group_{i}"].attrs["name"] = f"größe {i}"
    found = dict(_walk(_read(path)))
    with h5py.File(path) as file:
        names = []
        file.visit(names.append)
        assert set(found) == set(names)
        for i in range(members):
            values = found[f"group_{i}/inner/values"].array
            np.testing.assert_array_equal(values, file[f"group_{i}/inner/values"][()])
            assert found[f"group_{i}"].attributes == {"name": [f"größe {i}"]}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u2", "i4", "u8"])
def test_numbers_of_every_type(dtype, tmp_path):
    values = np.array([[1, 0, 3]], dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["values"] = values
        file["scalar"] = values[0, 2]
        file["empty"] = values[:0]
    members = _read(tmp_path / "a.h5").members
    assert members["values"].array.dtype == values.dtype
    np.testing.assert_array_equal(members["values"].array, values)
    assert members["scalar"].array == 3
    assert members["scalar"].array.shape == ()
    assert members["empty"].array.shape == (0, 3)


def test_two_opaque_bytes_are_kept_for_bfloat16(tmp_path):
    values = np.array([1.5, -2], ml_dtypes.bfloat16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["values"] = values.view("V2")
    found = _read(tmp_path / "a.h5").members["values"].array
    np.testing.assert_array_equal(found.view(ml_dtypes.bfloat16), values)


def test_a_native_bfloat16_is_not_taken_for_a_float16(tmp_path):
    bfloat16 = h5py.h5t.IEEE_F16LE.copy()
    bfloat16.set_fields(15, 7, 8, 0, 7)
    bfloat16.set_ebias(127)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((3,))
        values = h5py.h5d.create(file.id, b"values", bfloat16, space)
        values.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(3, dtype="f4"))
    assert _read(tmp_path / "a.h5").members["values"] == Dataset(None, {})


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_string_attributes_are_read_and_others_skipped(libver, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
        file.attrs["fixed"] = [b"ab", b"abcd"]
        file.attrs["variable"] = ["ab", "", "x" * 5000]
        file.attrs["one"] = "alone"
        file.attrs["none"] = h5py.Empty("S3")
        file.attrs["number"] = 3
        file.attrs["numbers"] = np.arange(4.0)
        file.attrs["itself"] = file.ref
        file["words"] = ["a", "b"]
        file["flags"] = np.zeros(2, bool)
    root = _read(tmp_path / "a.h5")
    assert root.attributes == {
        "fixed": ["ab", "abcd"],
        "variable": ["ab", "", "x" * 5000],
        "one": ["alone"],
    }
    assert root.members == {"words": Dataset(None, {}), "flags": Dataset(None, {})}


def test_find_walks_down(tmp_path):
    _small(tmp_path / "a.h5")
    root = _read(tmp_path / "a.h5")
    assert root.find("a/a/bias").array[2] == 2
    assert root.find("a/b/bias") is None
    assert root.find("a/a/bias/c") is None


def _soft(file):
    file["a"] = h5py.SoftLink("/b")


def _elsewhere(file):
    file["a"] = h5py.ExternalLink("other.h5", "/b")


def _raw_elsewhere(file):
    file.create_dataset("a", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def _virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "b", (4,))
    file.create_virtual_dataset("a", layout)


def _loop(file):
    file.create_group("a")["up"] = file["/"]


def _bomb(file):
    file.create_dataset("a", (10**12,), "f4", chunks=(1024,), compression="gzip")


def _unfilled(file):
    file.create_dataset("a", (10**12,), "f4")


def _twice(file):
    file["a"] = np.zeros(4, "f4")
    file["b"] = file["a"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_soft, "'a' is an external link"),
        (_elsewhere, "a variant of HDF5 that Keras does not use"),
        (_raw_elsewhere, "array in another file"),
        (_virtual, "in chunks"),
        (_loop, "is reached twice or nested too deeply"),
        (_twice, "is reached twice or nested too deeply"),
        (_bomb, "compressed or in chunks"),
        (_unfilled, "never filled"),
    ],
)
def test_links_and_unbounded_storage_are_refused(make, message, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    with pytest.raises(Hdf5Error, match=message):
        _read(tmp_path / "a.h5")


def test_no_attribute_takes_more_memory_than_the_file_has(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["many"] = ["x" * 30_000] + ["y"] * 1233
    content = (tmp_path / "a.h5").read_bytes()
    # All 1234 are the first, of 30 kB.
    place = content.index(struct.pack("<I", 30_000))
    same = bytearray(content)
    same[place : place + 1234 * 16] = 1234 * content[place : place + 16]
    with pytest.raises(Hdf5Error, match="structures exceed the file"):
        read_hdf5(bytes(same))
    # 8 TB of pointers to them.
    with pytest.raises(Hdf5Error, match="an attribute is longer than its header"):
        read_hdf5(content.replace(struct.pack("<Q", 1234), struct.pack("<Q", 1 << 40)))


def test_attributes_end_with_their_messages(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["short"] = np.bytes_(b"abcd")
        file.attrs["long"] = np.bytes_(b"x" * 100)
    content = (tmp_path / "a.h5").read_bytes()
    of_size = b"\x13\1\0\0" + struct.pack("<I", 4)  # the type of text, IV.A.2.d
    assert content.count(of_size) == 1
    with pytest.raises(Hdf5Error, match="an attribute is longer than its header"):
        read_hdf5(content.replace(of_size, of_size[:4] + struct.pack("<I", 40)))


def test_names_do_not_share_their_bytes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(100):
            file.create_group(f"{i}")
        file.create_group("x" * 50_000)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    heap = content.index(b"x" * 50_000) - content.index(b"0\0\0\0\0\0\0\0001") + 8
    node, names = 0, 0
    while (node := content.find(b"SNOD", node + 1)) > 0:  # III.B and III.C
        (count,) = struct.unpack_from("<H", content, node + 6)
        for entry in range(node + 8, node + 8 + 40 * count, 40):
            struct.pack_into("<Q", content, entry, heap + names)
            names += 1
    assert names == 101
    with pytest.raises(Hdf5Error, match="structures exceed the file"):
        read_hdf5(bytes(content))


def test_records_do_not_share_their_bytes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        for i in range(100):
            file.attrs[f"{i}"] = np.bytes_(b"x" * (3000 if i == 0 else 1))
    content = bytearray((tmp_path / "a.h5").read_bytes())
    assert len(_read(tmp_path / "a.h5").attributes) == 100
    leaves = [found.start() for found in re.finditer(b"BTLF", content)]
    records = [leaf + 6 + 17 * i for leaf in leaves for i in range(20)]  # III.A.2, type 8
    longest = max(records, key=lambda record: content[record + 6 : record + 8][::-1])
    for record in records:
        content[record : record + 8] = content[longest : longest + 8]
    with pytest.raises(Hdf5Error, match="structures exceed the file"):
        read_hdf5(bytes(content))


def test_arrays_do_not_share_their_bytes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(8):
            file[f"{i}"] = np.full(1000, i, "f4")
        places = [struct.pack("<Q", file[f"{i}"].id.get_offset()) for i in range(8)]
    content = (tmp_path / "a.h5").read_bytes()
    for place in places[1:]:
        content = content.replace(place, places[0])
    short = len(content) - 8000  # without the last two arrays, and the superblock says so
    content = content[:40] + struct.pack("<Q", short) + content[48:short]
    with pytest.raises(Hdf5Error, match="an array of 4000 bytes"):
        read_hdf5(content)


@pytest.mark.slow
def test_a_header_in_many_blocks_is_read_in_linear_time(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.zeros(1_000_000, "f4")
    content = bytearray((tmp_path / "a.h5").read_bytes())
    # A root of 65535 messages, each of which says that another 200 bytes of header follow.
    root, count = len(content), 0xFFFF
    message = struct.pack("<HHB3xQQ", 0x10, 16, 0, 2048, 200)
    content += struct.pack("<BxHII4x", 1, count, 1, count * len(message)) + count * message
    struct.pack_into("<Q", content, 40, len(content))
    struct.pack_into("<Q", content, 64, root)
    start = time.process_time()
    assert read_hdf5(bytes(content)) == Group({}, {})
    assert time.process_time() - start < 10  # half a second; minutes if each block is a copy


def test_warnings_of_pyfive_are_errors(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5a.create(file.id, b"bits", h5py.h5t.STD_B8LE, h5py.h5s.create_simple((2,)))
    with pytest.raises(Hdf5Error, match="Attribute bits type not implemented"):
        _read(tmp_path / "a.h5")


def test_no_truncated_file_is_read(tmp_path):
    content = _small(tmp_path / "a.h5")
    for length in range(0, len(content), 7):
        with pytest.raises(Hdf5Error):
            read_hdf5(content[:length])
    with pytest.raises(Hdf5Error, match=f"has {len(content) - 1} of {len(content)} bytes"):
        read_hdf5(content[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_no_flipped_bit_escapes_as_another_exception(libver, tmp_path):
    # libhdf5 hangs or crashes on some of these.
    content = bytearray(_small(tmp_path / "a.h5", libver=libver))
    whole = dict(_walk(read_hdf5(bytes(content))))
    rng = np.random.default_rng(0)
    # Where the file is not zeros, each byte once; and four random bytes at a time.
    places = [[i] for i in np.flatnonzero(np.frombuffer(content, np.uint8))]
    places += list(rng.integers(len(content), size=(1000, 4)))
    refused, slowest = 0, 0.0
    for place in places:
        damaged = bytearray(content)
        for i in place:
            damaged[i] ^= 1 << int(rng.integers(8))
        start = time.process_time()
        try:
            found = dict(_walk(read_hdf5(bytes(damaged))))
        except Hdf5Error:
            refused += 1
            continue
        finally:
            slowest = max(slowest, time.process_time() - start)
        for name in whole.keys() & found.keys():
            item = found[name]
            if isinstance(item, Dataset) and item.array is not None:
                assert item.array.nbytes <= len(content)
    assert refused > 300
    assert slowest < 3
