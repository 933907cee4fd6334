"""Read COCO captions (Lin et al. 2014, Chen et al. 2015) from the files of its website.

"Microsoft COCO Captions: Data Collection and Evaluation Server": photographs with five captions
each, unpacked into one folder (the images also into its subfolder images/):

    train2014/ val2014/                    82,783 and 40,504 photographs
    annotations/captions_train2014.json    their captions
    annotations/captions_val2014.json

The 2017 release splits the same photographs differently: train2017/, and so on. The captions of
the official test images are not public. Papers use Karpathy's split of the 2014 images (113,287 for
training, 5,000 for development and 5,000 for testing). If the folder holds his dataset_coco.json,
that split is used; otherwise "train" and "dev" are the official ones.
"""

from __future__ import annotations

import re
from pathlib import Path

from jaxcap.caption_files.reading import COCO, KARPATHY
from jaxcap.caption_files.text_files import fail
from jaxcap.datasets.sources import Listing, SourceOptions
from jaxcap.datasets.sources.assembly import Entry, assemble, entries_of, read_file
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.locations import need_file, need_folder, need_source
from jaxcap.messages import Progress, no_progress
from jaxcap.messages.errors import InputError

KARPATHY_FILE = "dataset_coco.json"
_OFFICIAL = re.compile(r"captions_(?P<split>train|val)(?P<year>\d{4})\.json")


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read the photographs in Karpathy's splits if his file exists, else in the official ones.

    Raises:
      InputError: lists all problems of the source.
    """
    source = need_source(options, "the folder that holds annotations/, train2014/ and val2014/")
    findings = Findings(source, skip_gaps=options.skip_bad)
    files, note = _caption_files(source, options)
    folder = need_folder(options.images or _image_folder(source), findings)
    entries: list[Entry] = []
    for path in files:
        file = read_file(path, findings) if need_file(path, findings) else None
        if file is None or folder is None:
            continue
        official = _OFFICIAL.fullmatch(path.name)
        if file.format not in (COCO, KARPATHY):
            fail(path, file.format, "COCO annotations or Karpathy's dataset file")
        for image in [*file.images, *file.bare_images]:
            if file.format == COCO and official:
                image.split, image.folder = official["split"], official["split"] + official["year"]
        entries += entries_of(file, folder, findings, short_names=True)
    if not entries or folder is None:
        findings.fail()
    found = assemble(entries, folder, options, findings)
    return Listing(
        found.splits,
        description="Photographs of common objects in their context, with five captions each.",
        homepage="https://cocodataset.org",
        citation=(
            "Chen, Fang, Lin, Vedantam, Gupta, Dollár, Zitnick: Microsoft COCO Captions: Data "
            "Collection and Evaluation Server. arXiv:1504.00325 (2015)"
        ),
        notes=(*note, *found.notes),
    )


def _image_folder(source: Path) -> Path:
    return source / "images" if (source / "images").is_dir() else source


def _caption_files(source: Path, options: SourceOptions) -> tuple[list[Path], tuple[str, ...]]:
    """Return the files to read, and a note about the choice."""
    below = [source, source / "annotations"]
    if options.captions is not None:
        official = _OFFICIAL.fullmatch(options.captions.name)
        if official is None or not options.captions.is_file():
            return [options.captions], ()
        below, years = [options.captions.parent], {official["year"]}
    else:
        for folder in below:
            if (folder / KARPATHY_FILE).is_file():
                return [folder / KARPATHY_FILE], (f"splits of Karpathy's {KARPATHY_FILE}",)
        years = {"2014", "2017"}
    there = {
        (year, split): folder / f"captions_{split}{year}.json"
        for year in sorted(years)
        for split in ("train", "val")
        for folder in below
        if (folder / f"captions_{split}{year}.json").is_file()
    }
    if not there:
        raise InputError(
            f"{source}: no captions found; expected annotations/captions_train2014.json, "
            f"annotations/captions_val2014.json (or 2017), {KARPATHY_FILE}, or --captions FILE"
        )
    if len({year for year, _ in there}) > 1:
        raise InputError(
            f"{source}: holds annotations of both 2014 and 2017; choose one: "
            f"--captions {there[min(there)]}"
        )
    splits = " and ".join(f"{split}{year}" for year, split in there)
    return list(there.values()), (f"the official splits {splits}; no test split",)
