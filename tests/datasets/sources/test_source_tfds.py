"""TFDS data sets of any name, in array_record and TFRecord files."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any, ClassVar

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from jaxcap.datasets.sources import SourceOptions
from jaxcap.datasets.sources.record_files import read_record, records
from jaxcap.datasets.sources.registry import read
from jaxcap.datasets.sources.tfds import StoredImage
from jaxcap.files.crc32c import masked_crc32c
from jaxcap.messages.errors import InputError


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 0, 0)).save(file, "JPEG")
    return file.getvalue()


class CocoCaptions(tfds.core.GeneratorBasedBuilder):
    """The features and splits of TFDS's own coco_captions."""

    name = "coco_captions"
    VERSION = tfds.core.Version("1.1.0")
    code_path = None
    COUNTS: ClassVar[dict[str, int]] = {"train": 20, "restval": 4, "val": 3, "test": 2}

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(
                {"bbox": tfds.features.BBoxFeature(), "is_crowd": np.bool_}
            ),
            "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            citation="Lin et al.",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self.COUNTS}

    def _generate_examples(self, split: str) -> Any:
        for n in range(self.COUNTS[split]):
            texts = [f"{split} {n}, caption {k}: café\n" for k in range(n % 3 + 1)]
            yield (
                n,
                {
                    "image": io.BytesIO(jpeg(n)),
                    "image/filename": f"{split}_{n}.jpg",
                    "image/id": n,
                    "objects": [],
                    "captions": [{"text": text, "id": k} for k, text in enumerate(texts)],
                },
            )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tfds")
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(io.StringIO()):
        CocoCaptions(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


def framed(record: bytes) -> bytes:
    head = struct.pack("<Q", len(record))
    checks = (struct.pack("<I", masked_crc32c(data)) for data in (head, record))
    return head + next(checks) + record + next(checks)


def as_tfrecord(source: Path, target: Path) -> Path:
    """Write the same records as TFRecord files; their reader is tested against Grain below."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if ".array_record-" not in path.name:
            text = path.read_text().replace('"array_record"', '"tfrecord"')
            (target / path.name).write_text(text)
            continue
        reader = array_record_module.ArrayRecordReader(str(path))
        content = b"".join(map(framed, reader.read_all()))
        (target / path.name.replace("array_record", "tfrecord")).write_bytes(content)
        reader.close()
    return target


@pytest.fixture(scope="module")
def copies(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    source = data_dir / "coco_captions" / "1.1.0"
    target = tmp_path_factory.mktemp("copy") / "coco_captions" / "2014" / "1.1.0"
    return {"array_record": source, "tfrecord": as_tfrecord(source, target)}


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_every_caption_and_every_byte_of_an_image(copies, file_format):
    seen = []
    listing = read(
        "tfds",
        SourceOptions(source=copies[file_format], caption_key="captions/text"),
        lambda *args: seen.append(args),
    )
    expected = {"train": ["train", "restval"], "dev": ["val"], "test": ["test"]}
    assert list(listing.splits) == list(expected)
    for split, parts in expected.items():
        originals = [
            (f"{part}_{n}.jpg", n, [f"{part} {n}, caption {k}: café\n" for k in range(n % 3 + 1)])
            for part in parts
            for n in range(CocoCaptions.COUNTS[part])
        ]
        for example, (name, number, captions) in zip(listing.splits[split], originals, strict=True):
            assert example.image_id == name
            assert example.captions == tuple(captions)
            image = pickle.loads(pickle.dumps(example.image))
            assert image.read() == jpeg(number)
            assert file_format in image.name
    assert seen[-1] == ("coco_captions: reading", 29, 29)
    assert listing.citation == "Lin et al."
    assert "captions 'captions/text', ids 'image/filename'" in listing.notes[0]


def test_by_name_and_with_fractions(copies, data_dir):
    options = SourceOptions(
        dataset="coco_captions", data_dir=data_dir, split_fractions={"train": 0.5, "test": 0.5}
    )
    listing = read("tfds", options)
    ids = {split: {e.image_id for e in examples} for split, examples in listing.splits.items()}
    assert list(ids) == ["train", "test"]
    assert sum(map(len, ids.values())) == 29 == len(ids["train"] | ids["test"])
    tfrecords = copies["tfrecord"].parents[2]
    for name in ("coco_captions", "coco_captions/2014", "coco_captions/2014:1.1.0"):
        found = read("tfds", SourceOptions(dataset=name, data_dir=tfrecords))
        assert len(found.splits["train"]) == 24


def test_given_ids_and_ambiguous_ids(copies, problems):
    message = problems("tfds", source=copies["array_record"], id_key="image/id")
    # 0, 1, 2 and 3 occur in several splits: 4 + 3 + 2 second occurrences.
    assert "9 problems" in message
    assert "the image id '0' occurs in both train and restval" in message


def test_ambiguous_features_need_a_choice(copies, problems):
    source = copies["tfrecord"]
    message = problems("tfds", source=source, caption_key="captions")
    assert (
        "no feature 'captions' (--caption-key); expected one of captions/id, captions/text"
        in message
    )
    assert "Did you mean 'captions/" in message
    message = problems("tfds", source=source, caption_key="captions/id")
    assert "holds numbers; expected text. Choose --caption-key from captions/text" in message
    message = problems("tfds", source=source, image_key="picture")
    assert "no feature 'picture' (--image-key)" in message


def test_numbers_are_no_image(tmp_path, copies, problems):
    folder = shutil.copytree(copies["tfrecord"], tmp_path / "1.1.0")
    (path,) = folder.glob("*-test*")
    place, record = list(records(path, "tfrecord"))[-1]
    found = tf_example_pb2.Example.FromString(record)
    found.features.feature["image"].int64_list.value.append(-5)
    path.write_bytes(path.read_bytes()[:place] + framed(found.SerializeToString()))
    message = problems("tfds", source=folder, caption_key="captions/text")
    assert f"{path}, byte {place}: no image under 'image'" in message
    with pytest.raises(InputError, match=f"byte {place}: no image in the feature 'image'"):
        StoredImage(path, "tfrecord", place, "image").read()


def test_folders_without_a_data_set_are_refused(tmp_path, copies, problems):
    assert "no prepared TFDS data set" in problems("tfds", source=tmp_path)
    assert "--data-dir DIR" in problems("tfds", dataset="coco_captions")
    assert "(--source DIR) or its name (--dataset NAME)" in problems("tfds")
    message = problems("tfds", dataset="coco_captions:2.0.0", data_dir=tmp_path)
    assert "no prepared TFDS data set of version 2.0.0" in message
    for config in ("2014", "2017"):
        folder = tmp_path / "x" / config / "1.0.0"
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{")
    message = problems("tfds", dataset="x", data_dir=tmp_path)
    assert "several configurations (2014/1.0.0, 2017/1.0.0)" in message
    message = problems("tfds", dataset="x/2014", data_dir=tmp_path)
    assert "not a prepared TFDS data set" in message


def test_the_newest_version_is_taken(tmp_path, copies):
    for version in ("1.9.0", "1.10.0"):
        folder = tmp_path / "coco_captions" / version
        as_tfrecord(copies["array_record"], folder)
        info = folder / "dataset_info.json"
        info.write_text(info.read_text().replace("1.1.0", version))
    listing = read("tfds", SourceOptions(dataset="coco_captions", data_dir=tmp_path))
    assert "coco_captions/1.10.0" in listing.description


def test_damaged_files(tmp_path, copies, problems):
    folder = as_tfrecord(copies["array_record"], tmp_path / "1.1.0")
    (path,) = folder.glob("*-train*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert "ends within a record; copy it again" in problems("tfds", source=folder)
    path.write_bytes(whole[:3] + b"\x7f" + whole[4:])
    message = problems("tfds", source=folder)
    assert f"{path}, byte 0: not a TFRecord file, or a damaged one" in message
    (length,) = struct.unpack("<Q", whole[:8])
    path.write_bytes(whole[: length + 16])  # the first record, and nothing else
    assert "10 records; expected 29" in problems("tfds", source=folder)
    path.write_bytes(b"")
    path.unlink()
    assert "cannot read" in problems("tfds", source=folder)


def test_a_data_set_of_our_own(tiny_data):
    listing = read("tfds", SourceOptions(dataset="shapes", data_dir=tiny_data))
    counts = {split: len(examples) for split, examples in listing.splits.items()}
    assert counts == {"train": 50, "dev": 6, "test": 5}
    assert listing.splits["test"][3].image_id == "test-00003"
    assert len(listing.splits["test"][3].captions) == 5
    assert listing.splits["test"][3].image.read().startswith(b"\x89PNG")


# ---- record files ----------------------------------------------------------------------------


def test_checksums_of_the_standard():
    def crc(data: bytes) -> int:
        masked = masked_crc32c(data) - 0xA282EAD8 & 0xFFFFFFFF
        return (masked << 15 | masked >> 17) & 0xFFFFFFFF

    # RFC 3720, appendix B.4, and the check value of CRC-32C.
    assert crc(bytes(32)) == 0x8A9136AA
    assert crc(b"\xff" * 32) == 0x62A8AB43
    assert crc(bytes(range(32))) == 0x46DD794E
    assert crc(b"123456789") == 0xE3069283


def test_a_tfrecord_file_of_tensorflows_against_grains_reader():
    path = Path(grain.__file__).parent / "_src/python/testdata/morris_sequence_first_5.tfrecord"
    if not path.is_file():
        pytest.skip("this version of Grain comes without its test files")
    found = dict(records(path, "tfrecord"))
    assert [record.decode() for record in found.values()] == [
        "1",
        "1 1",
        "2 1",
        "1 2 1 1",
        "1 1 1 2 2 1",
    ]
    for place, record in found.items():
        assert read_record(path, "tfrecord", place) == record
    framed = path.read_bytes()
    for place, record in found.items():  # TensorFlow wrote the checksums of the data, too
        (check,) = struct.unpack_from("<I", framed, place + 12 + len(record))
        assert masked_crc32c(record) == check


def test_damaged_array_record_files(tmp_path, copies, problems):
    for name, spoil in {
        "garbage": lambda data: b"nothing of the kind",
        "cut": lambda data: data[: len(data) * 2 // 3],
        "flipped": lambda data: data[:5000] + bytes(255 - b for b in data[5000:5200]) + data[5200:],
        "empty": lambda data: b"",
    }.items():
        folder = tmp_path / name / "1.1.0"
        shutil.copytree(copies["array_record"], folder)
        (path,) = folder.glob("*-train*")
        path.write_bytes(spoil(path.read_bytes()))
        assert "copy it again" in problems("tfds", source=folder)
    path.unlink()
    assert "cannot read this file: No such file" in problems("tfds", source=folder)


def test_a_record_cannot_ask_for_any_amount_of_memory(tmp_path: Path) -> None:
    head = struct.pack("<Q", 2**60)
    path = tmp_path / "x"
    path.write_bytes(head + struct.pack("<I", masked_crc32c(head)) + bytes(99))
    with pytest.raises(InputError, match="byte 0: the TFRecord file ends within a record"):
        list(records(path, "tfrecord"))


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_pipes_and_devices_are_no_records(tmp_path: Path, file_format: str) -> None:
    os.mkfifo(tmp_path / "a")
    os.symlink("/dev/zero", tmp_path / "b")
    for name in "ab":
        with pytest.raises(InputError, match="not a regular file"):
            next(records(tmp_path / name, file_format))
