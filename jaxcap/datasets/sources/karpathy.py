"""Read Karpathy's data set files (Karpathy and Fei-Fei 2015) with their images.

"Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR: dataset_flickr8k.json,
dataset_flickr30k.json and dataset_coco.json hold all captions with the splits that most papers
use. Other data sets have files of the same format. An image is `filepath/filename` or `filename`
below the image folder. The split "restval", the rest of COCO's validation images, counts as
"train", as in most papers.
"""

from __future__ import annotations

from jaxcap.caption_files.reading import KARPATHY
from jaxcap.caption_files.text_files import fail
from jaxcap.datasets.sources import Listing, SourceOptions
from jaxcap.datasets.sources.assembly import assemble, entries_of, read_file
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.locations import need_file, need_folder, need_source
from jaxcap.messages import Progress, no_progress
from jaxcap.messages.errors import InputError


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read the images in the splits of the file.

    Raises:
      InputError: lists all problems of the source.
    """
    source = need_source(options, "the folder of the images, with a dataset_*.json in it")
    findings = Findings(source, skip_gaps=options.skip_bad)
    folder = need_folder(options.images or source, findings)
    captions = options.captions
    if captions is None:
        there = sorted(source.glob("dataset_*.json"))
        if len(there) != 1:
            names = ", ".join(path.name for path in there) or "none"
            raise InputError(
                f"{source}: expected one file dataset_*.json, found {names}; "
                "choose it with --captions FILE"
            )
        captions = there[0]
    file = read_file(captions, findings) if need_file(captions, findings) else None
    if file is None or folder is None:
        findings.fail()
    if file.format != KARPATHY:
        fail(captions, file.format, "Karpathy's dataset file: images with 'sentences'")
    entries = entries_of(file, folder, findings, short_names=True)
    found = assemble(entries, folder, options, findings)
    notes = found.notes
    if file.tokenised:
        notes = (
            *notes,
            f"{captions}: some captions exist only as tokens, which were joined by spaces",
        )
    return Listing(
        found.splits,
        description=f"Images and captions of {captions.name}, in its splits.",
        homepage="https://cs.stanford.edu/people/karpathy/deepimagesent/",
        citation=(
            "Karpathy, Fei-Fei: Deep Visual-Semantic Alignments for Generating Image "
            "Descriptions. CVPR (2015)"
        ),
        notes=notes,
    )
