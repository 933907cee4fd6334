"""Read a prepared TFDS data set of any name, such as a copy of coco_captions.

Its records are `tf.train.Example` messages in array_record or TFRecord files, read without
TensorFlow. Nested features are named by their paths: the captions of coco_captions are
"captions/text". Images are not copied until they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxcap.caption_files.column_names import CAPTION_NAMES, ID_NAMES, LAST_ID_NAMES
from jaxcap.datasets.sources import Example, Listing, SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.shard_splits import divide
from jaxcap.datasets.sources.tfds_opening import open_directory
from jaxcap.messages import Progress, no_progress
from jaxcap.messages.errors import InputError, counted, did_you_mean, one_line

_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF")
_ID_KEYS = ("image/filename", *ID_NAMES, "image/id", *LAST_ID_NAMES)


@dataclass(frozen=True)
class StoredImage:
    """An image in a record.

    Attributes:
      path: the file of the record.
      file_format: "array_record" or "tfrecord".
      place: the place of the record in the file, as `record_files.records` returns it.
      key: the feature of the image.
    """

    path: Path
    file_format: str
    place: int
    key: str

    @property
    def where(self) -> str:
        """The place in the file, for messages."""
        return f"{'byte' if self.file_format == 'tfrecord' else 'record'} {self.place}"

    @property
    def name(self) -> str:
        """The file and the place in it, for messages."""
        return f"{self.path}, {self.where}"

    def read(self) -> bytes:
        """Read the encoded image.

        Raises:
          InputError: the file is damaged, or has changed.
        """
        from jaxcap.datasets.sources.record_files import read_record

        record = read_record(self.path, self.file_format, self.place)
        images = _images(_parse(record, self.path), self.key)
        if not images:
            raise InputError(
                f"{self.name}: no image in the feature {self.key!r}; has the file changed?"
            )
        return images[0]


@dataclass(frozen=True)
class _Keys:
    image: str
    caption: str
    id: str | None


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read the images and captions in the splits of the data set, in one pass over the records.

    Raises:
      InputError: no such data set, a missing feature, or faulty records; the message lists all
        problems.
    """
    directory = find_copy(options)
    builder = open_directory(directory)
    file_format = str(getattr(builder.info.file_format, "value", builder.info.file_format))
    if file_format not in ("array_record", "tfrecord"):
        raise InputError(
            f"{directory}: its files are {file_format}; expected array_record or tfrecord"
        )
    files = {
        split: [Path(path) for path in info.filepaths]
        for split, info in builder.info.splits.items()
        if info.num_examples
    }
    total = sum(info.num_examples for info in builder.info.splits.values())
    findings = Findings(directory, skip_gaps=options.skip_bad)
    reader = _Reader(options, file_format, findings)
    found: dict[str, list[Example]] = {}
    for split in files:
        found[split] = []
        for example in reader.examples(files[split]):
            found[split].append(example)
            if reader.count % 256 == 0 or reader.count == total:
                progress(f"{builder.name}: reading", reader.count, total)
    notes = []
    if reader.keys is not None and options.id_key is None:
        found, note = _with_own_ids(found, reader.keys.id)
        used = f"image '{reader.keys.image}', captions '{reader.keys.caption}', {note}"
        notes.append(one_line(f"features used: {used}"))
    if reader.count != total and not findings:
        findings.add(
            directory,
            "",
            f"holds {counted(reader.count, 'record')}; expected {total:,}; copy it again",
        )
    splits = divide(found.items(), options, directory, findings)
    findings.raise_if_any()
    if not splits:
        raise InputError(f"{directory}: no image with a caption; expected at least one")
    return Listing(
        splits,
        description=f"Images and captions of the TFDS data set {builder.info.full_name}.",
        homepage=builder.info.homepage,
        citation=builder.info.citation,
        notes=(*notes, *findings.notes()),
    )


def _with_own_ids(
    found: Mapping[str, list[Example]], key: str | None
) -> tuple[dict[str, list[Example]], str]:
    """Number the examples if no feature identifies them; also return a note about their ids."""
    ids = [example.image_id for examples in found.values() for example in examples]
    if key is not None and len(set(ids)) == len(ids):
        return dict(found), f"ids '{key}'"
    numbered = {
        split: [replace(e, image_id=f"{split}-{i:06d}") for i, e in enumerate(examples)]
        for split, examples in found.items()
    }
    return numbered, "ids by number"


class _Reader:
    """Makes examples from records, with keys that are given or found in the first record."""

    def __init__(self, options: SourceOptions, file_format: str, findings: Findings) -> None:
        self._options, self._file_format, self._findings = options, file_format, findings
        self.keys: _Keys | None = None
        self.count = 0

    def examples(self, paths: list[Path]) -> Iterator[Example]:
        """Yield the examples of a split, and add problems to the findings."""
        for path in paths:
            for place, features in self._records(path):
                self.count += 1
                if (example := self._example(path, place, features)) is not None:
                    yield example

    def _records(self, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
        from jaxcap.datasets.sources.record_files import records

        try:
            for place, record in records(path, self._file_format):
                yield place, _parse(record, path)
        except OSError as error:
            self._findings.add(path, "", f"cannot read this file: {error.strerror or error}")
        except InputError as error:
            self._findings.add_all(error)

    def _example(self, path: Path, place: int, features: Mapping[str, Any]) -> Example | None:
        if self.keys is None:
            self.keys = _find_keys(features, self._options, path)
        keys = self.keys
        image = StoredImage(path, self._file_format, place, keys.image)
        try:
            captions = tuple(value.decode() for value in _values(features, keys.caption))
            ids = [_id(value) for value in _values(features, keys.id)] if keys.id else []
        except UnicodeDecodeError as error:
            self._findings.add(path, image.where, f"a text is not UTF-8: {error}")
            return None
        except AttributeError:
            raise InputError(
                f"{path}: the feature {keys.caption!r} holds numbers; expected text. Choose "
                f"--caption-key from {', '.join(_texts(features))}"
            ) from None
        full = tuple(caption for caption in captions if caption.strip())
        if len(full) < max(len(captions), 1):
            found = "an empty caption" if captions else "no caption"
            self._findings.add_gap(path, image.where, f"{found} under {keys.caption!r}")
        if not _images(features, keys.image):
            self._findings.add_gap(path, image.where, f"no image under {keys.image!r}")
            return None
        return Example(ids[0] if ids else "", image, full) if full else None


def _parse(record: bytes, path: Path) -> Mapping[str, Any]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        return dict(tf_example_pb2.Example.FromString(record).features.feature)
    except DecodeError as error:
        raise InputError(
            f"{path}: a record is not a tf.train.Example message; copy the file again ({error})"
        ) from error


def _values(features: Mapping[str, Any], key: str) -> list[Any]:
    """Return all values of a feature, of any kind."""
    feature = features.get(key)
    kind = None if feature is None else feature.WhichOneof("kind")
    return [] if kind is None else list(getattr(feature, kind).value)


def _images(features: Mapping[str, Any], key: str) -> list[bytes]:
    """Return the values of a feature, leaving numbers out."""
    return [value for value in _values(features, key) if isinstance(value, bytes)]


def _texts(features: Mapping[str, Any]) -> list[str]:
    return sorted(key for key, each in features.items() if each.WhichOneof("kind") == "bytes_list")


def _id(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _find_keys(features: Mapping[str, Any], options: SourceOptions, path: Path) -> _Keys:
    """Return the requested keys, or infer them from the first record.

    Raises:
      InputError: a requested feature does not exist, or inference is ambiguous.
    """
    texts = _texts(features)
    images = [k for k in texts if any(v.startswith(_IMAGE_STARTS) for v in _values(features, k))]
    others = [key for key in texts if key not in images]
    captions = [key for key in others if set(key.split("/")) & set(CAPTION_NAMES)]
    # "captions" may have more features than the text; "caption" is preferred to "text".
    rank = {key: min(map(_rank, key.split("/"))) for key in captions}
    captions = [key for key in captions if rank[key] == min(rank.values())]
    image = _chosen("image", options.image_key, images, features, path)
    caption = _chosen("caption", options.caption_key, captions, features, path)
    if options.id_key is not None:
        return _Keys(image, caption, _chosen("id", options.id_key, [], features, path))
    keys = (key for key in _ID_KEYS if key in features and key not in (image, caption))
    return _Keys(image, caption, next(keys, None))


def _rank(name: str) -> int:
    return CAPTION_NAMES.index(name) if name in CAPTION_NAMES else len(CAPTION_NAMES)


def _chosen(
    what: str, given: str | None, found: list[str], features: Mapping[str, Any], path: Path
) -> str:
    known = sorted(features)
    if given is not None and given in features:
        return given
    if given is not None:
        raise InputError(
            f"{path}: no feature {given!r} (--{what}-key); expected one of {', '.join(known)}."
            f"{did_you_mean(given, known)}"
        )
    if len(found) != 1:
        which = f"several candidates: {', '.join(found)}" if found else "no candidate"
        raise InputError(
            f"{path}: cannot tell which feature is the {what} ({which}). Choose one of "
            f"{', '.join(known)} with --{what}-key KEY"
        )
    return found[0]


def find_copy(options: SourceOptions) -> Path:
    """Find the directory of the data set's newest version, which has a dataset_info.json.

    Raises:
      InputError: no such directory, or several configurations.
    """
    if (options.source is None) == (options.dataset is None):
        raise InputError(
            "expected the folder of a TFDS data set (--source DIR) or its name (--dataset NAME)"
        )
    if options.source is not None:
        base, version = options.source, ""
    else:
        if options.data_dir is None:
            raise InputError("--dataset also needs the data-set folder; add --data-dir DIR")
        name, _, version = str(options.dataset).partition(":")
        base = options.data_dir / name
    there = [base / "dataset_info.json", *base.glob("*/dataset_info.json")]
    there += base.glob("*/*/dataset_info.json")
    folders = [path.parent for path in there if path.is_file()]
    if version:
        folders = [folder for folder in folders if folder.name == version]
    if not folders:
        wanted = f" of version {version}" if version else ""
        beside = sorted(path.name for path in base.parent.glob("*/")) if options.dataset else []
        raise InputError(
            f"{base}: no prepared TFDS data set{wanted} (no dataset_info.json)."
            f"{did_you_mean(base.name, beside)}"
        )
    if len({folder.parent for folder in folders}) > 1:
        names = ", ".join(sorted(str(folder.relative_to(base)) for folder in folders))
        raise InputError(f"{base} has several configurations ({names}); choose one as NAME/CONFIG")
    return max(folders, key=_version)


def _version(folder: Path) -> tuple[int, ...]:
    parts = folder.name.split(".")
    return tuple(int(part) if part.isdecimal() else -1 for part in parts)
