"""Every reader of files that strangers may have made, with small seeds to damage.

A reader is a function of the path of a file, and may only return or raise `InputError`. Readers of
directories get a file in a copy of the directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from jaxcap.caption_files import xmp
from jaxcap.caption_files.beside import BesideWriter, Kind
from jaxcap.caption_files.made_with import read_record
from jaxcap.caption_files.output_formats import FORMATS
from jaxcap.caption_files.reading import read_captions
from jaxcap.caption_files.writing import CaptionWriter
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.config import (
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    Stage,
    load_config,
    to_dict,
)
from jaxcap.data.feature_cache import FeatureCache
from jaxcap.data.images import decode
from jaxcap.datasets.building import build
from jaxcap.datasets.prepare import load_source
from jaxcap.datasets.shapes import recipe
from jaxcap.datasets.shards import Shard, Workplace
from jaxcap.datasets.sources import SourceOptions
from jaxcap.datasets.sources.record_files import records
from jaxcap.datasets.sources.registry import read as read_source
from jaxcap.evaluation import read_metrics
from jaxcap.messages.errors import InputError
from jaxcap.metrics import tokenize
from jaxcap.model.captioner import create_captioner, variable_shapes
from jaxcap.model.encoders.weights.fitting import from_published
from jaxcap.model.encoders.weights.weight_files import read_weight_file
from jaxcap.report.charts import training_charts
from jaxcap.storage import manifest, published
from jaxcap.storage.checkpoints import Checkpoints
from jaxcap.storage.program_cache import Store
from jaxcap.storage.trained import TrainedCaptioner
from jaxcap.text.units import Characters, Pieces
from jaxcap.text.vocabulary import SPECIALS, Vocabulary
from jaxcap.training import event_files
from jaxcap.training.divergence import load_offender


@dataclass(frozen=True)
class Reader:
    """A reader and what to damage.

    Attributes:
      name: its name in the table.
      seeds: whole files.
      read: reads the file at a path.
      file: the name of the file, below the folder of one try.
      prepare: makes the rest of that folder, once.
      made: whole files made by hand, which are read before damaged ones.
      sign: returns damaged bytes with the checksum that the reader checks first.
    """

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    file: str = "file"
    prepare: Callable[[Path], object] = lambda folder: None
    made: tuple[bytes, ...] = ()
    sign: Callable[[bytes], bytes] | None = None


_ODD = (b"", b"\0", b"\0" * 999, b"\xff" * 999, b"PK\5\6" + bytes(18), b"PK\3\4" + bytes(99))
_ODD_JSON = (
    *(b"null", b"[]", b"{}", b"[{}]", b"[[]]", b"NaN", b"1e999", b"9" * 5000, b'"a"', b"true"),
    *(
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 200 + b"]" * 200,
        b'[{"a":' * 900 + b"1" + b"}]" * 900,
    ),
    *(b'{"a": 1, "a": ' + b"[" * 300 + b"]" * 300 + b', "a": 2}', b"[" + b"[]," * 10**5 + b"[]]"),
    *(b'"\\ud800"', b'{"\\ud800": "\\udfff"}', b"{" * 5000 + b"}" * 5000, b"\xff\xfe[\0]\0"),
)
_HOSTILE_TEXT = tuple(
    (unit * (30_000 // len(unit))).encode()
    for unit in (
        "b. <!a ",
        "1.a.",
        "\u0301",
        "👩‍",
        "<a  ",
        "a'",
        "www.",
        "~@",
        "a-",
        "&#1",
        "<a b='",
    )
)
_BITMAP = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, *[0] * 6)


def _weights(path: Path) -> None:
    file = read_weight_file(path)
    for tensor in file.tensors.values():
        from_published(tensor, file.naming)


_KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)


def _op(value: object) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _torch_pickle(*, is_legacy: bool) -> bytes:
    ordered = _global("collections", "OrderedDict") + b")R"
    pid = _op("storage") + _global("torch", "FloatStorage") + _op("7") + _op("cpu") + _op(24)
    storage = b"(" + pid + (_op(None) if is_legacy else b"") + b"tQ"
    arguments = storage + _op(0) + _op((2, 3, 2, 2)) + _op((12, 4, 2, 1)) + _op(False) + ordered
    tensor = _global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"
    return b"\x80\x02" + ordered + b"(" + _op("conv1.weight") + tensor + b"u."


def _torch() -> tuple[bytes, ...]:
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    start = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, machine))
    numbers = struct.pack("<Q", 24) + _KERNEL.tobytes()
    legacy = start + _torch_pickle(is_legacy=True) + pickle.dumps(["7"], 2) + numbers
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", _torch_pickle(is_legacy=False))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/7", _KERNEL.tobytes())
    return legacy, file.getvalue()


def _keras() -> tuple[bytes, ...]:
    legacy, new, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with h5py.File(legacy, "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = [b"conv1/kernel:0"]
        group["conv1/kernel:0"] = _KERNEL
    with h5py.File(new, "w") as file:
        variables = file.create_group("layers/conv2d_3/vars")
        variables.attrs["name"] = "conv1"
        variables["0"] = _KERNEL
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("model.weights.h5", new.getvalue())
    return legacy.getvalue(), new.getvalue(), archive.getvalue()


def _images() -> tuple[bytes, ...]:
    scene = Image.fromarray(np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3))
    found = []
    for mode, kinds in {
        "RGB": ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"),
        "P": ("GIF", "PNG"),
        "RGBA": ("PNG", "TIFF", "WEBP"),
        "I;16": ("PNG", "TIFF"),
        "CMYK": ("JPEG", "TIFF"),
        "1": ("PNG", "TIFF"),
    }.items():
        image = scene.convert("I").convert(mode) if mode == "I;16" else scene.convert(mode)
        for kind in kinds:
            file = io.BytesIO()
            image.save(file, kind, progressive=mode == "CMYK")  # JPEG only
            found.append(file.getvalue())
    for module, register, kind in (
        ("pillow_heif", "register_heif_opener", "HEIF"),
        ("pylibjxl", "register_pillow", "JXL"),
    ):
        with contextlib.suppress(ImportError):
            getattr(importlib.import_module(module), register)()
            file = io.BytesIO()
            scene.save(file, kind)
            found.append(file.getvalue())
    return tuple(found)


_PAIR = {"image": "a.jpg", "caption": "a dog runs"}
_JSON_CAPTIONS: tuple[Any, ...] = (
    {
        "images": [{"id": 1, "file_name": "a.jpg", "split": "train"}],
        "annotations": [{"id": 2, "image_id": 1, "caption": "a dog"}],
    },
    [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a cat"}],
    {
        "images": [
            {
                "filename": "a.jpg",
                "filepath": "val2014",
                "imgid": 0,
                "cocoid": 3,
                "split": "test",
                "sentences": [{"raw": "A dog.", "tokens": ["a", "dog"], "sentid": 4}],
            }
        ]
    },
    {"a.jpg": ["a dog", "a cat"], "b.jpg": "a cow"},
    {"image": "a.jpg", "captions": [{"caption": "a dog", "log_prob": -1.5}]},
)
_TEXT_CAPTIONS = (
    b'image,caption\na.jpg,"a dog, running"\nb.jpg,"a 5"" pipe"\n',
    b"image\tcaption_1\tcaption_2\na.jpg\ta dog\ta cat\n",
    b"image|comment\na.jpg| a dog\n",
    b"image;captions\na.jpg;\"['a dog', 'a cat']\"\n",
    b"a.jpg#0\ta dog\na.jpg#1\ta cat\n",
    b"\n".join([json.dumps(_PAIR).encode()] * 3),
    "image,caption\nä.jpg,ein Hund\n".encode("utf-16"),
)


def _resume(path: Path) -> None:
    content = path.read_bytes()
    for format in FORMATS.values():
        with contextlib.suppress(InputError), CaptionWriter(path, format()):
            pass
        path.write_bytes(content)


_OUTPUTS = (
    b"a.jpg\ta dog\nb.jpg\ta cat\n",
    b'{"image": "a.jpg", "captions": [{"caption": "a dog", "log_prob": -1.0}]}\n',
    b'image,caption,log_prob,confidence\na.jpg,"a 5"" pipe",-1.0000,0.5000\n',
    b'[\n{"image_id": 1, "caption": "a dog"},\n{"image_id": 2, "caption": "a cat"}\n]\n',
)


def _config() -> tuple[bytes, ...]:
    staged = dataclasses.replace(Config(), stages=(Stage(1, train={"learning_rate": 0.1}),))
    return json.dumps(to_dict(Config())).encode(), json.dumps(to_dict(staged)).encode()


@functools.cache
def _pieces() -> bytes:
    return Pieces.train(["a dog runs", "a cat sleeps"], size=20).model


def _vocabulary() -> tuple[bytes, ...]:
    words = (*SPECIALS, "a", "dog")
    found = Vocabulary(words).to_json(), Vocabulary(words, Pieces(_pieces())).to_json()
    return tuple(json.dumps(each).encode() for each in found)


def _use_pieces(path: Path) -> None:
    pieces = Pieces.read(path)
    pieces.join(pieces.split("a dog"))


def _sign_manifest(data: bytes) -> bytes:
    try:
        body = json.loads(data)
        crc = zlib.crc32(json.dumps(body, sort_keys=True).encode())
        return json.dumps({**body, "crc": crc}).encode()
    except (ValueError, TypeError, RecursionError):
        return data


def _manifest(path: Path) -> None:
    manifest.damage(path.parent)
    manifest.read_content(path.parent)


_MANIFEST = {
    "files": {"a": [1, 3904355907]},
    "content": {"step": 3, "metrics": {"CIDEr-D": 0.5}, "note": {"loss": 1.0}},
}


def _cache(folder: Path) -> FeatureCache:
    return FeatureCache.under(folder, "x", {"key": 1}, shape=(5, 2, 3), chunk=2)


def _fill_cache(folder: Path) -> None:
    cache = _cache(folder)
    with cache.locked(lambda: None):
        for chunk in cache.missing():
            cache.write(chunk, np.ones((len(cache.numbers(chunk)), 2, 3), np.float32))


def _read_cache(path: Path) -> None:
    cache = _cache(path.parent.parent)
    with cache.locked(lambda: None):
        for chunk in cache.missing():
            cache.write(chunk, np.ones((len(cache.numbers(chunk)), 2, 3), np.float32))
    assert cache.read().shape == (5, 2, 3)


def _metrics(path: Path) -> None:
    training_charts(read_metrics(path))


def _offender() -> bytes:
    file = io.BytesIO()
    tokens = np.ones((1, 2, 4), np.int32)
    np.savez_compressed(file, step=3, after=2, tokens=tokens, numbers=np.zeros(1, np.int32))
    return file.getvalue()


def _zip_bomb() -> bytes:
    """Two gigabytes of zeros in two megabytes."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("tokens.npy", "w", force_zip64=True) as entry,
    ):
        np.lib.format.write_array_header_1_0(
            entry, {"descr": "|u1", "fortran_order": False, "shape": (2**31,)}
        )
        for _ in range(2**31 >> 24):
            entry.write(bytes(2**24))
    return file.getvalue()


def _build_data(folder: Path) -> None:
    build(recipe({"train": 4}), folder)


def _read_data(path: Path) -> None:
    list(load_source("shapes", "train", path.parents[2]))


def _record_bomb(folder: Path) -> bytes:
    """An array_record file of 131 kB, with a record of half a gigabyte of zeros."""
    path = folder / "bomb"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    writer.write(bytes(2**29))
    writer.close()
    return path.read_bytes()


def _data_reader(name: str, file: str, data: Path, *, made: tuple[bytes, ...] = ()) -> Reader:
    path = data / "shapes" / "1.0.0" / file
    copy = functools.partial(shutil.copytree, data, dirs_exist_ok=True)
    return Reader(name, (path.read_bytes(),), _read_data, f"shapes/1.0.0/{file}", copy, made=made)


def _tfrecord(path: Path) -> None:
    for _ in records(path, "tfrecord"):
        pass


def _tfrecords() -> bytes:
    from jaxcap.files.crc32c import masked_crc32c

    head = struct.pack("<Q", 5)
    return (head + struct.pack("<I", masked_crc32c(head)) + b"hello" + bytes(4)) * 3


def _note(path: Path) -> None:
    Workplace(path.parents[1], "x").find(Shard("train", 0, 1, 0, 4))


def _finish_shard(folder: Path) -> None:
    place = Workplace(folder, "x")
    place.make()
    (place.data / Shard("train", 0, 1, 0, 4).file_name("x")).write_bytes(b"abc")


_RECORD = b'{"model": "a", "search": {"beam_size": 3}}'
_LINE = b'{"step": 1, "loss": 2.5, "elapsed_s": 1.0}\n'
_NOTE = b'{"records": 4, "num_bytes": 9, "file_bytes": 3, "checksum": "00", "unreadable": ["x"]}'


def _events(path: Path) -> None:
    list(event_files.records(path.read_bytes()))


def _text(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    tokenize(text)
    Characters().split(text)


def _sources(format: str) -> Callable[[Path], object]:
    return lambda path: read_source(format, SourceOptions(source=path.parent, skip_bad=True))


def _tar() -> bytes:
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in {
            "a.jpg": _images()[0],
            "a.txt": b"a dog",
            "b.jpg": _images()[0],
            "b.json": b'{"caption": "a cat"}',
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    columns = {
        "image": [{"bytes": x, "path": str(i)} for i, x in enumerate(_images()[:2])],
        "text": ["a dog", "a cat"],
    }
    pq.write_table(pa.table(columns), file, row_group_size=1)
    return file.getvalue()


def _stored(format: str) -> Callable[[Path], object]:
    """Read the source, and the images in it."""
    return lambda path: [
        example.image.read()
        for examples in _sources(format)(path).splits.values()
        for example in examples
    ]


def _sidecar(kind: Kind) -> Callable[[Path], object]:
    """Add a caption to a file beside an image."""
    writer = BesideWriter(kind, existing="append")
    found = Caption("a dog", -1.0)
    return lambda path: [
        writer.add(Captioned(str(path.with_name("a.jpg")), (found,))),
        writer.has(str(path)),
    ]


@functools.cache
def _captioner() -> TrainedCaptioner:
    config = Config(
        data=DataConfig(image_size=32),
        encoder=EncoderConfig(name="resnet_small"),
        decoder=DecoderConfig(name="lstm", hidden_size=4, embedding_size=4),
    )
    vocabulary = Vocabulary((*SPECIALS, "a", "dog"))
    shapes = variable_shapes(create_captioner(config, len(vocabulary)), image_size=32)
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return TrainedCaptioner(Path("x"), config, vocabulary, variables, 3)


def _published(folder: Path) -> bytes:
    path = folder / "seed.safetensors"
    published.write(_captioner(), path)
    return path.read_bytes()


class _State(NamedTuple):
    """A training state for `Checkpoints`."""

    step: int
    variables: dict[str, Any]
    training: dict[str, Any]

    @classmethod
    def from_parts(cls, variables: dict[str, Any], training: dict[str, Any]) -> Any:
        return cls(3, variables, training)


_ARRAYS = {"params": {"w": np.ones((3, 4), np.float32)}}


def _save_checkpoint(folder: Path) -> None:
    with Checkpoints(folder, metric="CIDEr-D") as checkpoints:
        arrays = jax.tree.map(jnp.asarray, _ARRAYS)
        checkpoints.save(_State(3, arrays, {"step": jnp.zeros(())}), {"CIDEr-D": 1.0})


def _restore(path: Path) -> None:
    step = next(folder for folder in path.parents if folder.name == "3")
    content = manifest.read_content(step) or manifest.Content(3)
    manifest.write_manifest(step, content)  # the stranger signs the damaged file
    with (
        warnings.catch_warnings(),
        Checkpoints(step.parent, metric="CIDEr-D", reading_only=True) as checkpoints,
    ):
        warnings.simplefilter("ignore")  # damaged steps are reported as warnings
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _ARRAYS)
        checkpoints.restore_sound_variables(like, best=True)


def all_readers(folder: Path) -> dict[str, Reader]:
    """Return the readers by name.

    Args:
      folder: a place for the data set that some seeds are taken from.
    """
    data = folder / "seed-data"
    if not data.exists():
        _build_data(data)
    shard = "shapes-train.array_record-00000-of-00001"
    event = event_files.event([event_files.scalar("loss", 1.0)], step=3, wall_time=1.0)
    store = "0" * 40
    found = [
        Reader("torch", _torch(), _weights, made=(*_ODD, b"\x80\x02" + b"]" * 200_000)),
        Reader("keras", _keras(), _weights, made=(b"\x89HDF\r\n\x1a\n" + bytes(99),)),
        Reader(
            "safetensors",
            (safetensors.numpy.save({"conv1.weight": _KERNEL}),),
            _weights,
            made=tuple(struct.pack("<Q", n) + b"{" + bytes(99) for n in (1, 9, 2**20, 2**62)),
        ),
        Reader(
            "images",
            _images(),
            lambda path: decode(path, name="x", size=64),
            made=(*_ODD, _BITMAP, b"P6 99999 99999 255\n", b"P6 " + b"9" * 5000 + b" 1 255\n"),
        ),
        Reader(
            "captions, JSON",
            tuple(json.dumps(each).encode() for each in _JSON_CAPTIONS),
            read_captions,
            made=_ODD_JSON,
        ),
        Reader("captions, tables and lines", _TEXT_CAPTIONS, read_captions, made=_ODD),
        Reader("captions to continue", _OUTPUTS, _resume, made=_ODD + _ODD_JSON),
        Reader("record of captions", (_RECORD,), read_record, made=_ODD_JSON),
        Reader("configuration", _config(), load_config, made=_ODD_JSON),
        Reader("vocabulary", _vocabulary(), Vocabulary.load, made=_ODD_JSON),
        Reader("SentencePiece model", (_pieces(),), _use_pieces, made=_ODD),
        Reader(
            "manifest",
            (json.dumps(_MANIFEST).encode(),),
            _manifest,
            file=manifest.NAME,
            made=_ODD_JSON,
            sign=_sign_manifest,
            prepare=lambda folder: (folder / "a").write_bytes(b"a"),
        ),
        Reader("metrics.jsonl", (_LINE * 3,), _metrics, made=_ODD_JSON),
        Reader("diverged step", (_offender(),), load_offender, made=(*_ODD, _zip_bomb())),
        Reader("TFRecord", (_tfrecords(),), _tfrecord, made=_ODD),
        Reader("event file", (event.content * 3,), _events, made=_ODD),
        Reader(
            "note of a shard",
            (_NOTE,),
            _note,
            "finished/train-00000.json",
            _finish_shard,
            made=_ODD_JSON,
        ),
        Reader(
            "program cache",
            (b"0" * 64 + b"\nprogram",),
            lambda path: Store(path.parent).get(store),
            file=store,
        ),
        Reader("text", _TEXT_CAPTIONS[:6], _text, made=_HOSTILE_TEXT),
        Reader("WebDataset", (_tar(),), _stored("webdataset"), "a.tar", made=_ODD),
        Reader("Parquet", (_parquet(),), _stored("parquet"), "a.parquet", made=_ODD),
        Reader("sidecar, XMP", (xmp.with_caption(xmp.EMPTY, "a cat"),), _sidecar("xmp"), "a.xmp"),
        Reader(
            "sidecar, JSON", (b'{"caption": "a cat"}',), _sidecar("json"), "a.json", made=_ODD_JSON
        ),
        Reader("published captioner", (_published(folder),), published.read),
        _data_reader("features.json", "features.json", data),
        _data_reader("dataset_info.json", "dataset_info.json", data),
        _data_reader("data set, shard", shard, data, made=(_record_bomb(folder),)),
    ]
    saved = folder / "seed-checkpoints"
    if not saved.exists():
        _save_checkpoint(saved)
    copy = functools.partial(shutil.copytree, saved, dirs_exist_ok=True)
    for pattern in ("_CHECKPOINT_METADATA", "variables/*", "variables/d/*"):
        for path in sorted(saved.glob(f"3/{pattern}")):
            if path.is_file():
                name = "array" if path.parent.name == "d" else path.name
                file = str(path.relative_to(saved))
                seeds = (path.read_bytes(),)
                found.append(Reader(f"checkpoint, {name}", seeds, _restore, file, copy))
    cache = _cache(folder / "seed-cache")
    _fill_cache(folder / "seed-cache")
    for path in sorted(cache.directory.iterdir()):
        if path.name != "lock":
            name = f"feature cache, {path.name}"
            file = f"{cache.directory.name}/{path.name}"
            found.append(Reader(name, (path.read_bytes(),), _read_cache, file, _fill_cache))
    return {reader.name: reader for reader in found}
