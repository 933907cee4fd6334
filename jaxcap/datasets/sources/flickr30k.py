"""Read Flickr30k (Young, Lai, Hodosh and Hockenmaier 2014) from its original release.

"From image descriptions to visual denotations", TACL 2: 31,783 photographs with five captions
each:

    flickr30k-images/NAME.jpg        the photographs
    results_20130124.token           NAME.jpg#0 <TAB> caption

The release has no splits. Papers use those of Karpathy's dataset_flickr30k.json (29,000 for
training, 1,014 for development and 1,000 for testing). If the folder holds that file, it is read
instead of the captions of the release, which it contains. Otherwise give lists of images, or
fractions to draw.
"""

from __future__ import annotations

from jaxcap.datasets.sources import Listing, SourceOptions
from jaxcap.datasets.sources.assembly import assemble, entries_of, read_file
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.locations import need_file, need_folder, need_source
from jaxcap.messages import Progress, no_progress

CAPTIONS = "results_20130124.token"
KARPATHY = "dataset_flickr30k.json"
PHOTOGRAPHS = ("flickr30k-images", "flickr30k_images", "images")


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read the photographs in Karpathy's splits if his file exists, else in the requested ones.

    Raises:
      InputError: lists all problems of the source.
    """
    expected = f"the folder that holds {CAPTIONS} or {KARPATHY}, and {PHOTOGRAPHS[0]}/"
    source = need_source(options, expected)
    findings = Findings(source, skip_gaps=options.skip_bad)
    folders = [source / name for name in PHOTOGRAPHS if (source / name).is_dir()]
    folder = need_folder(options.images or next(iter(folders), source / PHOTOGRAPHS[0]), findings)
    default = source / (KARPATHY if (source / KARPATHY).is_file() else CAPTIONS)
    captions = need_file(options.captions or default, findings)
    file = read_file(captions, findings) if captions else None
    if file is None or folder is None:
        findings.fail()
    entries = entries_of(file, folder, findings, short_names=True)
    found = assemble(entries, folder, options, findings)
    notes = found.notes
    drawn = not (options.split_files or options.split_fractions)
    if drawn and not any(image.split for image in file.images):
        advice = (
            f"Flickr30k has no official split; for the split of published results, put Karpathy's "
            f"{KARPATHY} into {source}"
        )
        notes = (*notes, advice)
    return Listing(
        found.splits,
        description="Photographs from Flickr of everyday scenes, with five captions each.",
        homepage="https://shannon.cs.illinois.edu/DenotationGraph/",
        citation=(
            "Young, Lai, Hodosh, Hockenmaier: From image descriptions to visual denotations. "
            "TACL 2 (2014)"
        ),
        notes=notes,
    )
