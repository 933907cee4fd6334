"""Test the reader of PyTorch files against PyTorch, on bytes written by hand, and on attacks."""

import collections
import contextlib
import json
import pickle
import subprocess
import sys
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest

from jaxcap.messages.errors import InputError
from jaxcap.model.encoders.weights.torch_files import read_torch_file

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def _op(value):
    """The pickle instructions that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def _global(module, name):
    return f"c{module}\n{name}\n".encode()


ORDERED_DICT = _global("collections", "OrderedDict") + b")R"


def _storage(key, kind, count, legacy):
    pid = _op("storage") + _global("torch", kind) + _op(key) + _op("cpu") + _op(count)
    return b"(" + pid + (_op(None) if legacy else b"") + b"tQ"


def _tensor(storage, offset, shape, strides):
    args = storage + _op(offset) + _op(shape) + _op(strides) + _op(False) + ORDERED_DICT
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + args + b"tR"


def _tree(**tensors):
    items = b"".join(_op(name) + tensor for name, tensor in tensors.items())
    return b"\x80\x02" + ORDERED_DICT + b"(" + items + b"u."


def _legacy(tree, storages):
    machine = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {}}
    header = b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, machine))
    data = b"".join(len(a).to_bytes(8, "little") + a.tobytes() for a in storages.values())
    return header + tree + pickle.dumps(list(storages), 2) + data


def _write_zip(path, tree, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", tree)
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def _write(path, layout, kind, array, offset, shape, strides):
    storage = _storage("7", kind, array.size, layout == "legacy")
    tree = _tree(weight=_tensor(storage, offset, shape, strides))
    if layout == "legacy":
        path.write_bytes(_legacy(tree, {"7": array}))
    else:
        _write_zip(path, tree, {"7": array})


LAYOUTS = ["legacy", "zip"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_a_strided_view_written_by_hand(layout, tmp_path):
    # Six numbers; from the second on, a 2×2 whose rows are one and columns two apart.
    path = tmp_path / "weights.pth"
    _write(path, layout, "FloatStorage", np.arange(6, dtype="<f4"), 1, (2, 2), (1, 2))
    tensors = read_torch_file(path)
    assert list(tensors) == ["weight"]
    assert tensors["weight"].dtype == np.float32
    np.testing.assert_array_equal(tensors["weight"], [[1, 3], [2, 4]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ShortStorage", np.int16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_reads_every_type(layout, kind, dtype, tmp_path):
    array = np.array([1, 0, 1]).astype(dtype)
    _write(tmp_path / "weights.pth", layout, kind, array, 0, (3,), (1,))
    weight = read_torch_file(tmp_path / "weights.pth")["weight"]
    assert weight.dtype == dtype
    np.testing.assert_array_equal(weight, array)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_opens_a_checkpoint_at_its_state_dict(key, tmp_path):
    tensor = _tensor(_storage("0", "FloatStorage", 1, True), 0, (), ())
    state = ORDERED_DICT + b"(" + _op("scale") + tensor + b"u"
    tree = b"\x80\x02}(" + _op("epoch") + _op(3) + _op(key) + state + b"u."
    (tmp_path / "a.pth").write_bytes(_legacy(tree, {"0": np.array([5], "<f4")}))
    assert read_torch_file(tmp_path / "a.pth") == {"scale": 5}


@pytest.mark.parametrize("new_layout", [False, True])
def test_equals_pytorch(new_layout, tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.randn(4, 6)
    state = collections.OrderedDict(
        whole=base,
        view=base[1:3, ::2].t(),
        parameter=torch.nn.Parameter(torch.randn(3)),
        half=torch.randn(5).half(),
        brain=torch.randn(5).bfloat16(),
        count=torch.tensor(17),
        empty=torch.zeros(0, 3),
    )
    state._metadata = {"": {"version": 1}}
    path = tmp_path / "weights.pt"
    torch.save(state, path, _use_new_zipfile_serialization=new_layout)
    tensors = read_torch_file(path)
    assert list(tensors) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(
            tensors[name].astype(np.float64), value.detach().double().numpy()
        )


def test_module_with_buffers_equals_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    tensors = read_torch_file(tmp_path / "weights.pth")
    assert tensors["1.num_batches_tracked"] == 0
    np.testing.assert_array_equal(tensors["0.weight"], module[0].weight.detach().numpy())


class _Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("place", ["first", "object", "zip"])
def test_a_program_in_the_pickle_never_runs(place, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    attack = pickle.dumps({"weight": _Attack(marker)}, 2)
    if place == "first":
        path.write_bytes(attack)
    elif place == "object":
        path.write_bytes(_legacy(attack, {}))
    else:
        _write_zip(path, attack, {})
    with pytest.raises(InputError, match=r"weights\.pth: refused.*'_?io\.open'"):
        read_torch_file(path)
    assert not marker.exists()
    pickle.loads(attack)["weight"].close()  # or the attack would prove nothing
    assert marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("os", "system"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_tensor_v2.__class__"),
        ("collections", "OrderedDict.__class__"),
        ("numpy", "ndarray"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_globals_are_refused(module, name, protocol, tmp_path):
    by_stack = pickle.SHORT_BINUNICODE + bytes([len(module)]) + module.encode()
    by_stack += pickle.SHORT_BINUNICODE + bytes([len(name)]) + name.encode() + b"\x93"
    program = _global(module, name) if protocol == 2 else by_stack
    path = tmp_path / "weights.pth"
    path.write_bytes(_legacy(b"\x80" + bytes([protocol]) + program + b".", {}))
    with pytest.raises(InputError, match=f"{module}.{name}"):
        read_torch_file(path)


def test_the_reader_cannot_be_altered(tmp_path):
    rebuild = _global("torch._utils", "_rebuild_tensor_v2")
    state = _op((None, {"_call": 1}))
    path = tmp_path / "weights.pth"
    path.write_bytes(_legacy(b"\x80\x02" + rebuild + state + b"b.", {}))
    with pytest.raises(InputError, match="alter the reader"):
        read_torch_file(path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (5, (2,), (1,)),
        (0, (2, 2), (1, 5)),
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (10**12,), (0,)),
        (0, (2**62, 4), (0, 0)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
    ],
)
def test_tensors_stay_within_their_storage(layout, offset, shape, strides, tmp_path):
    path = tmp_path / "weights.pth"
    _write(path, layout, "FloatStorage", np.arange(6, dtype="<f4"), offset, shape, strides)
    with pytest.raises(InputError, match=r"weights\.pth: damaged"):
        read_torch_file(path)


@pytest.mark.parametrize("count", [-1, 10**15, 2**70])
def test_a_storage_cannot_be_larger_than_the_file(count, tmp_path):
    tree = _tree(weight=_tensor(_storage("0", "FloatStorage", count, True), 0, (1,), (1,)))
    (tmp_path / "a.pth").write_bytes(_legacy(tree, {"0": np.zeros(1, "<f4")}))
    with pytest.raises(InputError, match=f"claims {count} values"):
        read_torch_file(tmp_path / "a.pth")


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_truncated_file_is_read(layout, tmp_path):
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    _write(whole, layout, "FloatStorage", np.arange(6, dtype="<f4"), 0, (6,), (1,))
    content = whole.read_bytes()
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.pth"):
            read_torch_file(cut)


@pytest.mark.slow
def test_no_flipped_bit_escapes_as_another_exception(tmp_path):
    whole, damaged = tmp_path / "whole.pth", tmp_path / "damaged.pth"
    _write(whole, "legacy", "FloatStorage", np.arange(6, dtype="<f4"), 0, (6,), (1,))
    content = bytearray(whole.read_bytes())
    for i in range(len(content)):
        content[i] ^= 1 << (i % 8)
        damaged.write_bytes(content)
        with contextlib.suppress(InputError):
            read_torch_file(damaged)
        content[i] ^= 1 << (i % 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "It is empty"),
        (b"<!DOCTYPE html><html>404</html>", "begins with b'<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (pickle.dumps([1, 2, 3], 2), "not one of PyTorch's"),
        (_legacy(pickle.dumps([1], 2), {}), "holds a list"),
        (_legacy(pickle.dumps({"epoch": 3}, 2), {}), "1 of 1 values are not: 'epoch'"),
    ],
)
def test_other_files_are_named(content, message, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_torch_file(tmp_path / "weights.pth")


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth: cannot be read: No such file"):
        read_torch_file(tmp_path / "none.pth")
    with pytest.raises(InputError, match="not a regular file"):
        read_torch_file(tmp_path)


def test_compressed_and_foreign_zip_files_are_refused(tmp_path):
    bomb, other = tmp_path / "bomb.pth", tmp_path / "other.pth"
    array = np.zeros(64, "<f4")
    tree = _tree(weight=_tensor(_storage("0", "FloatStorage", 64, False), 0, (64,), (1,)))
    _write_zip(bomb, tree, {"0": array}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed"):
        read_torch_file(bomb)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"no 'data\.pkl'"):
        read_torch_file(other)


# The same pair inside itself, sixty levels deep: 2**60 leaves for whatever walks all paths.
SHARED = b"N" + b"q\x63h\x63\x86" * 60
# A chain of one tuple inside another; recursion over it overflows the stack of C.
DEEP = b")" + b"\x85" * 200_000


def _pid(**parts):
    plain = {"kind": _op("storage"), "type": _global("torch", "FloatStorage"), "key": _op("0")}
    return b"(" + b"".join((plain | parts).values()) + _op("cpu") + _op(1) + b"tQ"


def _in_key(tree):
    return b"\x80\x02}" + tree + b"Ns."


def _in_value(tree):
    return b"\x80\x02}" + _op("weight") + tree + b"s."


def _in_shape(shape):
    args = _pid() + _op(0) + shape + _op((1,)) + _op(False) + ORDERED_DICT
    return _in_value(_global("torch._utils", "_rebuild_tensor_v2") + b"(" + args + b"tR")


def _overlapping_entries(path):
    """Each entry holds the headers and data of all that follow, and is sound by itself."""
    content, infos = bytes(1 << 20), []
    for i in range(200):
        info = zipfile.ZipInfo(f"archive/data/{i}")
        info.file_size = info.compress_size = len(content)
        info.CRC = zlib.crc32(content)
        content = info.FileHeader() + content
        infos.append((info, len(content)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.fp.write(content)
        archive.start_dir = len(content)
        archive.writestr("archive/data.pkl", _tree())
        for info, from_the_end in infos:
            info.header_offset = len(content) - from_the_end
            archive.filelist.append(info)


ATTACKS = {
    "shared key": (_in_key(SHARED), "a key of type tuple"),
    "deep key": (_in_key(DEEP), "a key of type tuple"),
    "shared value": (_in_value(SHARED), "1 of 1 values are not: 'weight'"),
    "deep value": (_in_value(DEEP), "1 of 1 values are not: 'weight'"),
    "deep lists": (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", "holds a list"),
    "deep dictionaries": (
        _in_value(b"}" + b"X\1\0\0\0a}" * 100_000 + b"s" * 100_000),
        "1 of 1 values are not: 'weight'",
    ),
    "shared kind of storage": (_in_value(_pid(kind=SHARED)), "not a storage"),
    "shared type of storage": (_in_value(_pid(type=SHARED)), "the type of a storage"),
    "shared key of storage": (_in_value(_pid(key=SHARED)), "a tuple instead of a string"),
    "deep storage": (_in_value(DEEP + b"Q"), "not a storage"),
    "shared shape": (_in_shape(SHARED + b"\x85"), "sizes or strides"),
    "a shape of a hundred thousand axes": (
        _in_shape(b"(" + b"\x8a\x10" + b"\xff" * 15 + b"\x7fq\2" + b"h\2" * 100_000 + b"t"),
        "sizes or strides",
    ),
    "shared global": (_in_value(SHARED + _op("x") + b"\x93"), "a tuple instead of a string"),
    "shared argument": (
        _in_value(_global("torch._utils", "_rebuild_parameter") + SHARED + b"\x85R"),
        "a tuple instead of a tensor",
    ),
    "a call of a tuple": (_in_value(SHARED + b")R"), "calls something"),
    "big integer": (
        _in_value(b"\x8b" + (1 << 15).to_bytes(4, "little") + b"\x7f" * (1 << 15)),
        "an integer of 262143 bits",
    ),
    "huge integer": (_in_value(b"\x8b" + b"\xff\xff\xff\x7f"), "a value of 2147483647 bytes"),
    "huge string": (_in_value(b"X" + b"\xff\xff\xff\x7f"), "a value of 2147483647 bytes"),
    "keys that collide": (
        b"\x80\x02}(" + b"".join(_op(i * (2**61 - 1) + 1) + b"N" for i in range(1, 50_000)) + b"u.",
        "a key of type int",
    ),
    "long memo": (b"\x80\x02}r\xff\xff\xff\x7f.", "numbers an object 2147483647"),
    "empty sets": (b"\x80\x04" + b"\x8f" * 2_000_000 + b".", "the instruction EMPTY_SET"),
    "empty dictionaries": (b"\x80\x02" + b"}" * 2_000_000 + b".", "more than 500000 instructions"),
    "marks": (b"\x80\x02" + b"(" * 2_000_000 + b".", "more than 500000 instructions"),
    "empty stack": (b"\x80\x02t.", "from an empty stack"),
    "key alone": (b"\x80\x02}(" + _op("a") + b"u.", "a key without a value"),
}
# The five pickles of the legacy layout, each in turn the shared tuple.
IN_PLACE_OF = [
    ("shared magic", "not one of PyTorch's"),
    ("shared protocol", "not one of PyTorch's"),
    ("shared machine", "big-endian"),
    ("shared tree", "holds a tuple"),
    ("shared list of storages", "list of storages is not a list"),
]
CHILD = """
import json, resource, sys, time
from jaxcap.messages.errors import InputError
from jaxcap.model.encoders.weights.torch_files import read_torch_file

with open("/proc/self/statm") as statm:
    pages = int(statm.read().split()[0])
room = pages * resource.getpagesize() + (512 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        answer = f"read: {list(read_torch_file(path))}"
    except InputError as error:
        answer = str(error)
    print(json.dumps([answer, time.process_time() - start]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Each attack's message and seconds, from a process that may take 512 MB more."""
    if sys.platform != "linux":
        pytest.skip("only Linux limits a process's memory")
    folder = tmp_path_factory.mktemp("attacks")
    paths = {name: folder / f"{name}.pth" for name in (*ATTACKS, *dict(IN_PLACE_OF), "overlap")}
    for name, (tree, _) in ATTACKS.items():
        paths[name].write_bytes(_legacy(tree, {}))
    whole = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {"little_endian": True}, {}, [])]
    for i, (name, _) in enumerate(IN_PLACE_OF):
        pickles = [*whole[:i], b"\x80\x02" + SHARED + b".", *whole[i + 1 :]]
        paths[name].write_bytes(b"".join(pickles))
    _overlapping_entries(paths["overlap"])
    command = [sys.executable, "-c", CHILD, *map(str, paths.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    lines = map(json.loads, done.stdout.splitlines())
    answers = dict(zip(paths, lines, strict=False))
    assert list(answers) == list(paths), f"it ended at {len(answers)}: {done.stderr[-2000:]}"
    return answers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, message) for name, (_, message) in ATTACKS.items()),
        *IN_PLACE_OF,
        ("overlap", "entries overlap"),
    ],
)
def test_no_pickle_takes_much_time_or_memory(name, message, answers):
    answer, seconds = answers[name]
    assert message in answer
    assert "MemoryError" not in answer
    assert len(answer) < 1_000
    assert seconds < 5


def test_a_state_dictionary_beside_an_optimizer_is_read(tmp_path):
    # Optimizers number their parameters, so some keys are numbers.
    tensor = _tensor(_storage("0", "FloatStorage", 1, True), 0, (), ())
    optimizer = _op({"state": {0: {"step": 7}}, "param_groups": [{"lr": 0.5, "params": [0]}]})
    state = ORDERED_DICT + b"(" + _op("scale") + tensor + b"u"
    tree = b"\x80\x02}(" + _op("optimizer") + optimizer + _op("model") + state + b"u."
    (tmp_path / "a.pth").write_bytes(_legacy(tree, {"0": np.array([5], "<f4")}))
    assert read_torch_file(tmp_path / "a.pth") == {"scale": 5}
