"""Count the images that `jaxcap caption` could and could not caption, and report them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from jaxcap.messages.errors import counted, one_line

if TYPE_CHECKING:
    from jaxcap.captioning.results import Captioned
    from jaxcap.messages.progress import Display

_LISTED = 1000
"""Failures that are listed; so many more have a common cause."""


@dataclass
class Tally:
    """Counts of captioned and failed images, and why those failed."""

    console: Console
    min_confidence: float
    display: Display | None = None
    captioned: int = 0
    doubtful: int = 0
    before: int = 0
    failed: int = 0
    hidden: list[Path] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def fail(self, reason: str) -> None:
        self.failed += 1
        if self.failed <= _LISTED:
            self.reasons.append(reason)

    def add(self, result: Captioned) -> Captioned:
        """Count an image, and return it, without its captions if the best one is doubtful."""
        if result.error is not None:
            self.fail(result.error)
        elif (confidence := result.captions[0].confidence) < self.min_confidence:
            self.doubtful += 1
            why = f"{result.name}: confidence {confidence:.2f} is below {self.min_confidence:g}"
            result = dataclasses.replace(result, captions=(), error=why)
        else:
            self.captioned += 1
        if self.display is not None:
            done = self.before + self.captioned + self.doubtful + self.failed
            self.display.update(done, f"{self.failed} failed" if self.failed else "")
        return result

    def say_where(self, where: str) -> None:
        """Say how many images have captions now, and where these are."""
        before = f", {self.before} of them before" if self.before else ""
        self.console.print(
            f"{counted(self.before + self.captioned, 'image')} captioned{before}: {where}",
            soft_wrap=True,
        )

    def close(self) -> int:
        """List the failures and return the exit status."""
        from jaxcap.data.image_paths import named_left_out

        for reason in self.reasons:
            self.console.print(f"skipped: {one_line(reason)}", soft_wrap=True)
        if self.failed > len(self.reasons):
            self.console.print(f"… and {self.failed - len(self.reasons)} more")
        if self.hidden:
            self.console.print(named_left_out(self.hidden), soft_wrap=True)
        if self.doubtful:
            self.console.print(
                f"{self.doubtful} of {counted(self.captioned + self.doubtful, 'caption')} left "
                f"out: confidence below {self.min_confidence:g}."
            )
        if self.failed:
            total = self.captioned + self.doubtful + self.failed
            self.console.print(
                f"{self.failed} of {counted(total, 'image')} could not be captioned."
            )
        return 1 if self.failed else 0
