"""Read Flickr8k (Hodosh, Young and Hockenmaier 2013) from its original release.

"Framing Image Description as a Ranking Task", JAIR 47: 8,092 photographs with five captions
each: 6,000 for training, 1,000 for development and 1,000 for testing. The release is two archives,
unpacked into one folder:

    Flicker8k_Dataset/NAME.jpg       the photographs (sic)
    Flickr8k.token.txt               NAME.jpg#0 <TAB> caption
    Flickr_8k.trainImages.txt        the photographs of each split, one per line
    Flickr_8k.devImages.txt
    Flickr_8k.testImages.txt

A split whose list is missing is left out, so a partial copy can be used.
"""

from __future__ import annotations

from dataclasses import replace

from jaxcap.datasets.sources import Listing, SourceOptions
from jaxcap.datasets.sources.assembly import assemble, entries_of, read_file
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.locations import need_file, need_folder, need_source
from jaxcap.messages import Progress, no_progress

CAPTIONS = "Flickr8k.token.txt"
PHOTOGRAPHS = "Flicker8k_Dataset"
LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read the photographs of every split that has a list.

    Raises:
      InputError: lists all problems of the source.
    """
    source = need_source(options, f"the folder that holds {CAPTIONS} and {PHOTOGRAPHS}/")
    findings = Findings(source, skip_gaps=options.skip_bad)
    folder = need_folder(
        options.images or source / PHOTOGRAPHS, findings, "the release spells it Flicker8k"
    )
    captions = need_file(options.captions or source / CAPTIONS, findings)
    if not options.split_files and not options.split_fractions:
        lists = {s: source / name for s, name in LISTS.items() if (source / name).is_file()}
        if not lists:
            names = ", ".join(LISTS.values())
            findings.add(source, "", f"no list of images; expected at least one of {names}")
        options = replace(options, split_files=lists)
    file = read_file(captions, findings) if captions else None
    if file is None or folder is None:
        findings.fail()  # further problems would only be consequences
    entries = entries_of(file, folder, findings, short_names=True)
    found = assemble(entries, folder, options, findings)
    return Listing(
        found.splits,
        description="Photographs from Flickr of people and dogs, with five captions each.",
        homepage="https://www.jair.org/index.php/jair/article/view/10833",
        citation=(
            "Hodosh, Young, Hockenmaier: Framing Image Description as a Ranking Task: Data, "
            "Models and Evaluation Metrics. JAIR 47 (2013)"
        ),
        notes=found.notes,
    )
