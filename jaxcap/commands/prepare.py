"""`jaxcap prepare`: build a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


@dataclass(frozen=True)
class FileOptions:
    """Sources of files: where the captions and the images are, if not under their usual names."""

    captions: Path | None = None
    """File of captions."""
    images: Path | None = None
    """Folder of the images."""


@dataclass(frozen=True)
class TableOptions:
    """folder: what the columns (or JSON keys) of the captions mean, and which images each split
    has."""

    image_column: str | None = None
    """Column of the image's file name."""
    caption_columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN …")] = ()
    """Columns of the captions."""
    split_column: str | None = None
    """Column of the split."""
    split_files: Annotated[dict[str, Path], tyro.conf.arg(metavar="SPLIT FILE …")] = field(
        default_factory=dict
    )
    """Files that list the images of each split, one name per line: train train.txt dev dev.txt."""
    split_fractions: Annotated[dict[str, float], tyro.conf.arg(metavar="SPLIT SHARE …")] = field(
        default_factory=dict
    )
    """Fractions of the images, assigned by a hash of their names: train 0.8 dev 0.1 test 0.1."""


@dataclass(frozen=True)
class TfdsOptions:
    """tfds: which data set, and its features."""

    dataset: str | None = None
    """A prepared TFDS data set by name, such as coco_captions/2014."""
    image_key: str | None = None
    """Feature with the image."""
    caption_key: str | None = None
    """Feature with the captions, such as captions/text."""
    id_key: str | None = None
    """Feature with a unique id of the image."""


@dataclass(frozen=True)
class PrepareArguments:
    """Build a data set for training from your images and captions.

    Every image is checked and stored with its captions. FORMAT describes your files: flickr8k,
    flickr30k or coco (the original releases), karpathy (a dataset_*.json with its images),
    folder (images with captions in CSV, TSV, JSONL, COCO JSON, or a file beside each image),
    webdataset (.tar files), parquet (Parquet files with images), text (captions without images),
    tfds (a prepared TFDS data set), or shapes (drawn scenes). Repeat an interrupted command to
    continue.

        jaxcap prepare flickr8k --source FLICKR8K_DIR
        jaxcap prepare folder --source photos --captions captions.csv --name mine
            --split-fractions train 0.8 dev 0.1 test 0.1
    """

    format: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FORMAT")]
    """Kind of source: flickr8k, flickr30k, coco, karpathy, folder, webdataset, parquet, text, tfds,
    or shapes."""
    source: Path | None = None
    """Folder of the release, of the images, or of the TFDS data set; file of text; shapes needs
    none."""
    name: str | None = None
    """Name of the data set, for data.name of a configuration; default: the format. Required for
    karpathy, folder, text and tfds."""
    data_dir: Path | None = None
    """Folder for prepared data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    max_side: int | None = None
    """Scale images down to this many pixels on the longer side, as JPEG of quality 95."""
    skip_bad: bool = False
    """Skip images that are missing, have no caption or cannot be read, instead of stopping with a
    list of them."""
    part: str | None = None
    """Prepare one share of the data set: 2/4 is the second of four, for several machines, each
    with the same options. Their folders NAME/*.unfinished-* must come together in one data_dir."""
    join: bool = False
    """Complete the data set when all its parts are prepared."""
    workers: int | None = None
    """Processes that check and scale images; default: one per processor."""
    files: tyro.conf.OmitArgPrefixes[FileOptions] = field(default_factory=FileOptions)
    table: tyro.conf.OmitArgPrefixes[TableOptions] = field(default_factory=TableOptions)
    tfds: tyro.conf.OmitArgPrefixes[TfdsOptions] = field(default_factory=TfdsOptions)


def run(arguments: PrepareArguments, console: Console) -> int:
    """Build the data set, or report that it exists."""
    from jaxcap.data.image_paths import Part
    from jaxcap.datasets.prepare import default_data_dir, prepare
    from jaxcap.datasets.sources import SourceOptions

    options = SourceOptions(
        source=arguments.source,
        # Only formats that look up a data set by name take a folder.
        data_dir=(arguments.data_dir or default_data_dir()) if arguments.tfds.dataset else None,
        **vars(arguments.files),
        **vars(arguments.table),
        **vars(arguments.tfds),
    )
    prepare(
        arguments.format,
        options,
        name=arguments.name,
        data_dir=arguments.data_dir,
        part=None if arguments.part is None else Part.parse(arguments.part),
        join=arguments.join,
        max_side=arguments.max_side,
        skip_bad=arguments.skip_bad,
        workers=arguments.workers,
        console=console,
    )
    return 0
