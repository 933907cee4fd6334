"""Read the pickles in PyTorch's files without running them.

A pickle is a program for a stack machine, and Python's own machine lets it call anything, nest
values without limit and use any value as a key. This one knows only the instructions that
`torch.save` writes. Keys are strings or small numbers, integers have at most 128 bits, and the
number of instructions is bounded. Nothing here hashes, compares, prints or walks the objects that a
pickle builds.

The instructions are documented in the standard library's `pickletools.py`.
"""

from __future__ import annotations

import math
import pickletools
from io import BufferedIOBase
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

STORAGE_DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

# ResNet-152 with the state of Adam takes 150,000 instructions.
_MAX_INSTRUCTIONS = 500_000
_MAX_TEXT = 1 << 16  # bytes of one string
_MAX_BITS = 128  # of one integer; the magic number of the legacy layout has 77
_MAX_KEY = 1 << 32  # optimizers number their parameters
_MAX_AXES = 64  # as in PyTorch and NumPy


class Refused(Exception):
    """The file is refused; the text says why."""


class Storage(NamedTuple):
    """A block of numbers outside the pickle.

    Attributes:
        key: the name of the block in the file.
        dtype: the type of its numbers.
        length: how many numbers it holds.
    """

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Global(NamedTuple):
    """A class or function that a pickle may name; `kind` says what takes its place."""

    kind: Literal["dict", "tensor", "parameter", "storage type"]
    name: str


_GLOBALS: dict[tuple[str, str], _Global] = {
    ("collections", "OrderedDict"): _Global("dict", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"): _Global("tensor", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"): _Global("parameter", "_rebuild_parameter"),
    **{("torch", name): _Global("storage type", name) for name in STORAGE_DTYPES},
}


class PickleReader:
    """Reads the pickles of one file.

    Attributes:
        storages: the storages that the pickles named, by key.
    """

    def __init__(self, file_size: int) -> None:
        self.storages: dict[str, Storage] = {}
        self._file_size = file_size
        self._left = _MAX_INSTRUCTIONS

    def read(self, file: BufferedIOBase) -> Any:
        """Read one pickle and leave `file` at the byte after it.

        Returns:
            A tree of dicts, lists, tuples, strings, numbers and `Tensor`s. Its depth is not
            bounded, so do not walk, hash or print it.

        Raises:
            Refused: the pickle is damaged, or needs more than a state dictionary does.
        """
        try:
            return self._run(file)
        except IndexError:
            raise Refused("damaged: its pickle takes a value from an empty stack") from None

    def _run(self, file: BufferedIOBase) -> Any:
        stack: list[Any] = []
        below: list[list[Any]] = []  # the stacks below each MARK
        memo: dict[int, Any] = {}

        def pop_to_mark() -> list[Any]:
            nonlocal stack
            items, stack = stack, below.pop()
            return items

        argument: Any
        for code, argument, _ in pickletools.genops(_Bounded(file)):  # type: ignore[arg-type]
            self._left -= 1
            if self._left < 0:
                raise Refused(f"refused: its pickle has more than {_MAX_INSTRUCTIONS} instructions")
            match code.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case "MARK":
                    below.append(stack)
                    stack = []
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(code.name == "NEWTRUE")
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4":
                    if argument.bit_length() > _MAX_BITS:
                        raise Refused(f"refused: an integer of {argument.bit_length()} bits")
                    stack.append(argument)
                case "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                    stack.append(argument)
                case "BINSTRING" | "SHORT_BINSTRING":  # of Python 2; bytes decoded as Latin-1
                    stack.append(argument.encode("latin-1").decode())
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE":
                    items = pop_to_mark()
                    stack.append(tuple(items))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    items = [stack.pop() for _ in range(int(code.name[-1]))]
                    stack.append(tuple(reversed(items)))
                case "APPEND" | "APPENDS":
                    items = [stack.pop()] if code.name == "APPEND" else pop_to_mark()
                    _expect(stack[-1], list, "a list").extend(items)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _set_items(stack[-1], [key, value])
                case "SETITEMS":
                    items = pop_to_mark()
                    _set_items(stack[-1], items)
                case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                    index = len(memo) if argument is None else argument
                    if index > _MAX_INSTRUCTIONS:
                        raise Refused(f"damaged: its pickle numbers an object {index}")
                    memo[index] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    if argument not in memo:
                        raise Refused(f"damaged: its pickle has no object {argument}")
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(_find_global(*argument.split(" ", 1)))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(_find_global(_expect_text(module), _expect_text(name)))
                case "REDUCE":
                    arguments = _expect(stack.pop(), tuple, "a tuple")
                    stack.append(_call(stack.pop(), arguments))
                case "BUILD":  # torch.save keeps versions of modules here
                    stack.pop()
                    if type(stack[-1]) is not dict:
                        raise Refused("refused: its pickle tries to alter the reader")
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case _:
                    raise Refused(
                        f"refused: its pickle has the instruction {code.name}, which no state"
                        " dictionary needs. Save `model.state_dict()`, not the model"
                    )
        raise Refused("cut short: its pickle has no end")

    def _storage(self, pid: Any) -> Storage:
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused("damaged: its pickle names an object that is not a storage")
        _, storage_type, key, _device, count, *view = pid
        if type(storage_type) is not _Global or storage_type.kind != "storage type":
            raise Refused("damaged: the type of a storage is not a type")
        if any(view_of is not None for view_of in view):
            raise Refused("holds a view of a storage, which only PyTorch before 0.4 wrote")
        dtype = STORAGE_DTYPES[storage_type.name]
        if type(count) is not int or not 0 <= count * dtype.itemsize <= self._file_size:
            claimed = count if type(count) is int else "an unknown number of"
            raise Refused(
                f"cut short or damaged: a storage claims {claimed} values,"
                f" the file has {self._file_size} bytes"
            )
        storage = Storage(_expect_text(key), dtype, count)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise Refused(f"damaged: storage {shown(storage.key)} is described in two ways")
        return storage


class _Bounded:
    """A file that gives out only short pieces: an instruction cannot ask for gigabytes."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if size > _MAX_TEXT:
            raise Refused(f"refused: its pickle has a value of {size} bytes")
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline(_MAX_TEXT)


def shown(text: str) -> str:
    """Quote a string from a file for an error message, as short printable ASCII."""
    return ascii(text if len(text) <= 60 else f"{text[:59]}…")


def _find_global(module: str, name: str) -> _Global:
    found = _GLOBALS.get((module, name))
    if found is None:
        raise Refused(
            f"refused: it asks to run {shown(f'{module}.{name}')}, which no file of weights needs."
            " Expected a state dictionary: save `model.state_dict()`, not the model"
        )
    return found


def _call(called: Any, arguments: tuple[Any, ...]) -> Any:
    if type(called) is _Global and called.kind == "dict" and not arguments:
        return {}
    if type(called) is _Global and called.kind == "tensor" and len(arguments) >= 4:
        return _tensor(*arguments[:4])
    if type(called) is _Global and called.kind == "parameter" and arguments:
        return _expect(arguments[0], Tensor, "a tensor")
    raise Refused("damaged: its pickle calls something in a way that torch.save does not")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    is_sound = type(storage) is Storage and type(shape) is tuple and type(strides) is tuple
    if not is_sound or not len(shape) == len(strides) <= _MAX_AXES:
        raise Refused("damaged: a tensor's storage, sizes or strides make no sense")
    if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise Refused("damaged: a tensor's offset, sizes or strides make no sense")
    count = math.prod(shape)
    # Elements that share their place (stride 0) do not count: their number is bounded too.
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if count and (last >= storage.length or count > storage.length):
        raise Refused(
            f"damaged: a tensor of {shape} reaches beyond its {storage.length} stored values"
        )
    return Tensor(storage, offset, shape, strides)


def _set_items(target: Any, items: list[Any]) -> None:
    mapping = _expect(target, dict, "a dictionary")
    if len(items) % 2:
        raise Refused("damaged: its pickle has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and 0 <= key < _MAX_KEY):
            kind = type(key).__name__
            raise Refused(f"refused: a key of type {kind}; expected a name or a small number")
        mapping[key] = value


def _expect(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise Refused(f"damaged: its pickle has a {type(value).__name__} instead of {name}")
    return value


def _expect_text(value: Any) -> str:
    return str(_expect(value, str, "a string"))
