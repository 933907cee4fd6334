"""`jaxcap caption --output page.html`: captions on a page, with their images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcap.commands.tally import Tally
from jaxcap.messages.errors import counted
from jaxcap.messages.progress import Display
from jaxcap.storage.packaged import model_name

if TYPE_CHECKING:
    from jaxcap.captioning.loaded_model import LoadedModel
    from jaxcap.captioning.results import Captioned
    from jaxcap.data.image_paths import ImagePath


def write_page(
    captioner: LoadedModel,
    found: Iterable[ImagePath],
    output: Path,
    tally: Tally,
    *,
    batch_size: int,
) -> None:
    """Write a page with each image, its captions, and where the model looked for each word."""
    from jaxcap.report import ReportCaption, ReportRow, write_report

    images = {image.path: image.image for image in found}

    def row(path: Path, result: Captioned) -> ReportRow:
        best = result.captions[0] if result.captions else None
        scores = {}
        if best is not None and result.familiarity is not None:
            scores = {"confidence": best.confidence, "familiarity": result.familiarity}
        captions = [ReportCaption.of(caption) for caption in tally.add(result).captions]
        picture = path if images[path] is path else result.image
        return ReportRow(str(path), picture, captions, scores=scores)

    with Display(tally.console, "captioning", total=len(images)) as tally.display:
        write_report(
            output,
            title="Captions",
            rows=map(row, images, captioner.caption(images.values(), batch_size=batch_size)),
            count=len(images),
            facts={"model": ", ".join(model_name(each.directory) for each in captioner.members)},
        )
    tally.console.print(f"{counted(tally.captioned, 'image')} captioned: {output}", soft_wrap=True)
