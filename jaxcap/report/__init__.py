"""One HTML page with scores, training curves, and captioned images.

The page is self-contained: it embeds the images (or links to files), the data, and the gallery's
script. A content security policy forbids every request, so the page can be mailed, archived, or
opened offline. This package does not use JAX.

    from jaxcap.report import ReportCaption, ReportRow, write_report

    write_report(
        Path("report.html"),
        title="My captions",
        rows=(
            ReportRow(name, path, [ReportCaption(caption)], references, {"CIDEr-D": 88.0})
            for name, path, caption, references in …
        ),
        count=1000,
        scores={"CIDEr-D": 52.2},
        intervals={"CIDEr-D": (50.1, 54.3)},
        signature="…",
    )
"""

from __future__ import annotations

from jaxcap.report.page import write_report
from jaxcap.report.rows import (
    OtherCaption,
    OtherScores,
    ReportCaption,
    ReportRow,
    scale_attention,
)

__all__ = [
    "OtherCaption",
    "OtherScores",
    "ReportCaption",
    "ReportRow",
    "scale_attention",
    "write_report",
]
