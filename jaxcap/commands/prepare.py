"""`jaxcap prepare`: build a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console


@dataclass(frozen=True)
class PrepareArguments:
    """Build a data set for training: check every image and store it with its captions.

    FORMAT describes your files: flickr8k, flickr30k or coco (the original releases), karpathy (a
    dataset_*.json with its images), folder (images with captions in CSV, TSV, JSONL, COCO JSON, or
    one .txt per image), tfds (a prepared TFDS data set), or shapes (drawn scenes). Repeat an
    interrupted command to continue.
    """

    format: tyro.conf.Positional[str]
    source: Path | None = None
    """Folder of the release, of the images, or of the TFDS data set; shapes needs none."""
    name: str | None = None
    """Name of the data set, for data.name of a configuration; default: the format. Required for
    karpathy, folder and tfds."""
    data_dir: Path | None = None
    """Folder for prepared data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    max_side: int | None = None
    """Scale images down to this many pixels on the longer side, as JPEG of quality 95."""
    skip_bad: bool = False
    """Skip images that are missing, have no caption or cannot be read, instead of stopping with a
    list of them."""
    workers: int | None = None
    """Processes that check and scale images; default: one per processor."""
    captions: Path | None = None
    """File of captions, if the source does not have it under its usual name."""
    images: Path | None = None
    """Folder of the images, if the source does not have it under its usual name."""
    split_column: str | None = None
    """Column (or JSON key) of the split."""
    split_files: dict[str, Path] = field(default_factory=dict)
    """Files that list the images of each split, one name per line: train train.txt dev dev.txt."""
    split_fractions: dict[str, float] = field(default_factory=dict)
    """Fractions of the images, assigned by a hash of their names: train 0.8 dev 0.1 test 0.1."""
    image_column: str | None = None
    """Column (or JSON key) of the image's file name."""
    caption_columns: tuple[str, ...] = ()
    """Columns (or JSON keys) of the captions."""
    dataset: str | None = None
    """A prepared TFDS data set by name, such as coco_captions/2014."""
    image_key: str | None = None
    """Feature of the TFDS data set with the image."""
    caption_key: str | None = None
    """Feature with the captions, such as captions/text."""
    id_key: str | None = None
    """Feature with a unique id of the image."""


def run(arguments: PrepareArguments, console: Console) -> int:
    """Build the data set, or report that it exists."""
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
        # Only formats that look up a data set by name take a folder.
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
