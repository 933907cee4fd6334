"""Flickr8k (Hodosh, Young and Hockenmaier 2013), from the files of its original release.

"Framing Image Description as a Ranking Task", JAIR 47: 8,092 photographs with five captions
each, of which 6,000 are for training, 1,000 for development and 1,000 for the test. The
release is two archives, unpacked into one folder:

    Flicker8k_Dataset/NAME.jpg       the photographs (it is spelled so)
    Flickr8k.token.txt               NAME.jpg#0 <TAB> caption
    Flickr_8k.trainImages.txt        the photographs of each split, one a line
    Flickr_8k.devImages.txt
    Flickr_8k.testImages.txt

A split whose list is missing is left out, so a partial copy can be used.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import tensorflow_datasets as tfds

from jaxcap.data import Progress, images, no_progress
from jaxcap.errors import InputError

CAPTIONS = "Flickr8k.token.txt"
PHOTOGRAPHS = "Flicker8k_Dataset"
LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}

_CAPTION_LINE = re.compile(r"(?P<image>[^\t]+)#(?P<number>\d+)\t(?P<caption>.*\S.*)")
_SHOWN = 10  # problems listed before the rest is only counted


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A photograph of the source: where it is, and its captions in the order of their numbers."""

    path: Path
    captions: tuple[str, ...]


def read_source(source: Path, progress: Progress = no_progress) -> dict[str, list[Photograph]]:
    """Returns the photographs of each split there is, every one checked to be decodable.

    Raises:
      InputError: lists all problems of the source (the first ten, and how many there are),
        each with its file and line.
    """
    if not source.is_dir():
        found = "is a file" if source.exists() else "does not exist"
        raise InputError(
            f"{source}: the Flickr8k source {found}; expected the folder that holds "
            f"{CAPTIONS} and {PHOTOGRAPHS}/"
        )
    problems: list[str] = []
    folder = source / PHOTOGRAPHS
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder (the release does spell it 'Flicker8k')")
    present = {split: source / name for split, name in LISTS.items() if (source / name).is_file()}
    if not present:
        problems.append(f"{source}: no list of images; expected one of {', '.join(LISTS.values())}")
    captions = _read_captions(source / CAPTIONS, problems)
    if captions is None or not folder.is_dir():
        _raise(source, problems)  # everything else would only follow from this

    splits: dict[str, list[Photograph]] = {}
    listed: dict[str, str] = {}
    for split, path in present.items():
        splits[split] = []
        names = _read_lines(path, problems)
        for number, name in names:
            place = f"{path}, line {number}"
            if name in listed:
                problems.append(f"{place}: {name} is listed already in {listed[name]}")
                continue
            listed[name] = place
            photograph = folder / name
            if photograph.parent != folder or not photograph.is_file():
                problems.append(f"{place}: there is no photograph {photograph}")
            elif name not in captions:
                problems.append(f"{place}: {name} has no caption in {CAPTIONS}")
            else:
                splits[split].append(Photograph(photograph, captions[name]))
        if not names:
            problems.append(f"{path}: the list is empty; remove the file to leave the split out")
    _check_images([p for photographs in splits.values() for p in photographs], problems, progress)
    if problems:
        _raise(source, problems)
    return splits


def _read_captions(path: Path, problems: list[str]) -> dict[str, tuple[str, ...]] | None:
    """Returns the captions of each image by their numbers; None if there is no such file."""
    if not path.is_file():
        problems.append(f"{path}: no such file")
        return None
    numbered: dict[str, dict[int, str]] = {}
    for line_number, line in _read_lines(path, problems):
        match = _CAPTION_LINE.fullmatch(line)
        if match is None:
            problems.append(
                f"{path}, line {line_number}: expected NAME.jpg#NUMBER<TAB>CAPTION, "
                f"found {line[:60]!r}"
            )
            continue
        of_image = numbered.setdefault(match["image"], {})
        number = int(match["number"])
        if number in of_image:
            problems.append(f"{path}, line {line_number}: a second {match['image']}#{number}")
        of_image[number] = match["caption"].strip()
    return {name: tuple(texts[i] for i in sorted(texts)) for name, texts in numbered.items()}


def _read_lines(path: Path, problems: list[str]) -> list[tuple[int, str]]:
    """Returns the lines that are not blank, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot read it as UTF-8 text: {error}")
        return []
    # Not splitlines(), which also breaks at characters that may stand within a caption.
    lines = enumerate(text.split("\n"), start=1)
    return [(number, line.rstrip()) for number, line in lines if line.strip()]


def _check_images(photographs: list[Photograph], problems: list[str], progress: Progress) -> None:
    for done, photograph in enumerate(photographs, start=1):
        try:
            # The smallest decoding reads the whole file, too, so it finds all damage.
            images.decode(photograph.path, name=str(photograph.path), size=1)
        except InputError as error:
            problems.append(str(error))
        progress("flickr8k: checking", done, len(photographs))


def _raise(source: Path, problems: list[str]) -> NoReturn:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    shown = [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        shown.append(f"  … and {len(problems) - _SHOWN} more")
    raise InputError("\n".join([f"{source}: {count} with this Flickr8k source:", *shown]))


class Flickr8k(tfds.core.GeneratorBasedBuilder):
    """Builds the data set from the folder of the original release.

    Features: `image` (the release's own JPEG bytes), `captions` (five as a rule) and
    `image_id` (the file name).
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    # Nothing is downloaded, so TFDS need not look for checksums beside this file; its search
    # imports importlib_resources, which TFDS 4.9.10 uses without depending on it.
    code_path = None

    flippable = True
    """A mirrored photograph keeps its captions (nearly always)."""

    def __init__(
        self,
        *,
        source: Path | None = None,
        data_dir: Path | str | None = None,
        progress: Progress = no_progress,
        **kwargs: Any,
    ) -> None:
        """Args:
        source: the folder of the release; not needed to read what is already prepared.
        data_dir: where TFDS keeps its data sets; by default its own choice.
        progress: called with (what, done, total) as the work goes on.
        """
        self._source = source
        self._progress = progress
        kwargs.setdefault("file_format", "array_record")
        super().__init__(data_dir=data_dir, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photographs from Flickr of people and dogs, with five captions each.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                    "image_id": tfds.features.Text(),
                }
            ),
            homepage="https://www.jair.org/index.php/jair/article/view/10833",
            citation=(
                "Hodosh, Young, Hockenmaier: Framing Image Description as a Ranking Task: Data, "
                "Models and Evaluation Metrics. JAIR 47 (2013)"
            ),
            disable_shuffling=True,  # the order of the lists
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        if self._source is None:
            raise InputError("flickr8k: building it needs the folder of the release (source)")
        splits = read_source(Path(self._source), self._progress)
        return {split: self._generate_examples(split, splits[split]) for split in splits}

    def _generate_examples(
        self, split: str, photographs: list[Photograph]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, photograph in enumerate(photographs):
            yield (
                index,
                {
                    "image": io.BytesIO(photograph.path.read_bytes()),
                    "captions": list(photograph.captions),
                    "image_id": photograph.path.name,
                },
            )
            self._progress(f"flickr8k: {split}", index + 1, len(photographs))
