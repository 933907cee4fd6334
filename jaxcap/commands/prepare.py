"""`jaxcap prepare`: builds a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console


@dataclass(frozen=True)
class PrepareArguments:
    """Builds a data set to train on: checks every image, stores it with its captions.

    FORMAT is what your files are: flickr8k, flickr30k or coco (the original releases), karpathy (a
    dataset_*.json with its images), folder (images with captions in CSV, TSV, JSONL, COCO JSON, or
    a .txt beside each), tfds (a TFDS data set that is prepared already), or shapes (drawn by the
    program). Stopped half-way, the same command goes on.
    """

    format: tyro.conf.Positional[str]
    source: Path | None = None
    """Folder of the release, of the images, or of the TFDS data set; shapes needs none."""
    name: str | None = None
    """What to call it, later the data.name of a configuration; by default as the format. Needed for
    karpathy, folder and tfds."""
    data_dir: Path | None = None
    """Where to put it; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    max_side: int | None = None
    """Store images whose longer side has more pixels at this size, as JPEG of quality 95."""
    skip_bad: bool = False
    """Go on without images that are absent, have no caption or cannot be read, instead of stopping
    with a list of them."""
    workers: int | None = None
    """Processes that check and scale images; default: as many as there are processors."""
    captions: Path | None = None
    """File of captions, where it is not found in the source by its name."""
    images: Path | None = None
    """Folder of the images, where it is not found in the source."""
    split_column: str | None = None
    """Column (or JSON key) that names the split of an image."""
    split_files: dict[str, Path] = field(default_factory=dict)
    """Files that list the images of each split, a name a line: train train.txt dev dev.txt."""
    split_fractions: dict[str, float] = field(default_factory=dict)
    """Shares of the images, drawn by a hash of their names: train 0.8 dev 0.1 test 0.1."""
    image_column: str | None = None
    """Column (or JSON key) that names the image."""
    caption_columns: tuple[str, ...] = ()
    """Columns (or JSON keys) that hold captions."""
    dataset: str | None = None
    """A prepared TFDS data set by name, such as coco_captions/2014."""
    image_key: str | None = None
    """Feature of the TFDS data set that holds the image."""
    caption_key: str | None = None
    """Feature that holds the captions, such as captions/text."""
    id_key: str | None = None
    """Feature that tells an image from all others."""


def run(arguments: PrepareArguments, console: Console) -> int:
    """Builds the data set, or says that it is there."""
    from jaxcap.datasets.prepare import default_data_dir, prepare
    from jaxcap.datasets.sources import SourceOptions

    options = SourceOptions(
        source=arguments.source,
        captions=arguments.captions,
        images=arguments.images,
        split_column=arguments.split_column,
        split_files=arguments.split_files,
        split_fractions=arguments.split_fractions,
        image_column=arguments.image_column,
        caption_columns=arguments.caption_columns,
        dataset=arguments.dataset,
        # Only a format that looks data sets up by name has a use for it.
        data_dir=(arguments.data_dir or default_data_dir()) if arguments.dataset else None,
        image_key=arguments.image_key,
        caption_key=arguments.caption_key,
        id_key=arguments.id_key,
    )
    prepare(
        arguments.format,
        options,
        name=arguments.name,
        data_dir=arguments.data_dir,
        max_side=arguments.max_side,
        skip_bad=arguments.skip_bad,
        workers=arguments.workers,
        console=console,
    )
    return 0
