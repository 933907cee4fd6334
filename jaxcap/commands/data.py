"""`jaxcap data`: inspect a prepared data set and warn about problems."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from jaxcap.config import DataConfig, load_config_file
from jaxcap.files import check_target
from jaxcap.messages.errors import InputError, one_line
from jaxcap.messages.progress import PlainConsole, print_out

if TYPE_CHECKING:
    from jaxcap.data.pipeline import Source
    from jaxcap.datasets.inspection import DataStatistics, DataWarning

_STYLES = {"warning": "yellow", "note": None}


@dataclass(frozen=True)
class DataArguments:
    """Inspect a prepared data set, and warn about problems.

    Prints counts, caption lengths, vocabulary and coverage, image sizes, and duplicates within and
    between splits; --page writes a page with samples. Without a name, lists the prepared data sets.

        jaxcap data
        jaxcap data mine --page mine.html
        jaxcap data mine --list test
    """

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[NAME]")] = None
    """A prepared data set; default: that of --config, else list all data sets."""
    list: str | None = None
    """Print the names of the images of this split, one per line, and nothing else."""
    config: Path | None = None
    """Configuration, a file or a name of jaxcap configs, that provides min_count, units,
    length_buckets, …; default: the defaults of these options."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; default that of --config, else $TFDS_DATA_DIR, else
    ~/tensorflow_datasets."""
    page: Path | None = None
    """Write a page to this .html file: samples, histograms, duplicates side by side."""
    samples: int = 24
    """Sample images of each split on the page."""
    seed: int = 0
    """Seed of the samples."""
    images: bool = True
    """Decode the images, to find their sizes, formats and near-duplicates."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: DataArguments, console: Console) -> int:
    """Print statistics to standard output, and warnings to the console."""
    _check(arguments)
    config = DataConfig() if arguments.config is None else load_config_file(arguments.config).data
    name = arguments.name if arguments.config is None else arguments.name or config.name
    data_dir = arguments.data_dir or config.directory
    if name is None:
        return _list_data_sets(data_dir, console, as_json=arguments.json)
    if arguments.list is not None:
        return _list_images(name, arguments.list, data_dir)
    from jaxcap.data.pipeline import all_captions
    from jaxcap.datasets.inspection import inspect, warnings
    from jaxcap.datasets.prepare import find_dataset, load_source
    from jaxcap.messages.progress import Display
    from jaxcap.text.units import create_units

    counts = find_dataset(name, data_dir).splits
    splits: dict[str, Source] = {
        split: load_source(name, split, data_dir, text_too=True)
        for split, count in counts.items()
        if count
    }
    train = splits.get("train") or next(iter(splits.values()), None)
    if train is None:
        raise InputError(f"the data set {name} is empty; prepare it again.")
    units = create_units(config, lambda: (text for each in all_captions(train) for text in each))
    with Display(console, "reading", total=sum(map(len, splits.values()))) as display:
        done = 0

        def progress(what: str, number: int, total: int) -> None:
            nonlocal done
            if what in splits:
                done += 1
                display.update(done, what)
            elif number == total:
                display.update(done, f"compared {total:,} pairs")

        statistics = inspect(
            name,
            splits,
            min_count=config.min_count,
            images=arguments.images,
            units=units,
            threads=max(2, os.cpu_count() or 1),
            progress=progress,
        )
    found = warnings(statistics, config)
    _print(statistics, found, config, as_json=arguments.json)
    for warning in found:
        label = one_line(f"{warning.level}: {warning.text}")
        console.print(label, style=_STYLES[warning.level], soft_wrap=True)
    if arguments.page is not None:
        from jaxcap.report.data_page import write_data_page

        write_data_page(
            arguments.page,
            statistics,
            found,
            splits,
            config=config,
            samples=arguments.samples,
            seed=arguments.seed,
        )
        console.print(f"wrote {arguments.page}", soft_wrap=True)
    return 0


def _check(arguments: DataArguments) -> None:
    """Refuse faulty options before the work starts."""
    page = arguments.page
    if page is not None:
        if page.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"--page {page}: the page is HTML; give a name that ends in .html.")
        from jaxcap.report.assets import check_page

        check_target(page, "--page")
        check_page(page, "--page")
    if arguments.list is not None and (arguments.name or arguments.config) is None:
        raise InputError(f"--list {arguments.list}: no data set is named; give its name first.")
    if arguments.samples < 0:
        raise InputError(f"--samples is {arguments.samples}; it must be at least 0.")
    if arguments.seed < 0:
        raise InputError(f"--seed is {arguments.seed}; it must be at least 0.")


def _list_images(name: str, split: str, data_dir: Path | None) -> int:
    from jaxcap.datasets.prepare import load_source

    source = load_source(name, split, data_dir)
    for number in range(len(source)):
        print_out(one_line(source[number]["image_id"]))
    return 0


def _list_data_sets(data_dir: Path | None, console: Console, *, as_json: bool) -> int:
    from jaxcap.datasets.prepare import default_data_dir, find_dataset, list_prepared

    where = data_dir or default_data_dir()
    there = [find_dataset(name, where) for name in list_prepared(where)]
    if as_json:
        print_out(
            json.dumps({p.name: {"path": str(p.path), "splits": dict(p.splits)} for p in there})
        )
        return 0
    for prepared in there:
        row = prepared.name, prepared.counts, str(prepared.path)
        print_out("\t".join(map(one_line, row)))
    if not there:
        console.print(
            f"no prepared data sets in {where}; see jaxcap prepare --help", soft_wrap=True
        )
    return 0


def _print(
    statistics: DataStatistics, found: list[DataWarning], config: DataConfig, *, as_json: bool
) -> None:
    from jaxcap.datasets.inspection import data_tables

    least = config.min_count
    if as_json:
        value = data_tables.as_object(statistics, found, least)
        print_out(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
        return
    if not sys.stdout.isatty():
        print_out("\n".join(data_tables.as_lines(statistics, found, least)))
        return
    out = PlainConsole()
    for table in data_tables.as_tables(statistics, least):
        out.print(table)
    for line in data_tables.example_lines(statistics):
        out.print(line, soft_wrap=True)
    out.print(data_tables.SURENESS.format(units=statistics.units))
