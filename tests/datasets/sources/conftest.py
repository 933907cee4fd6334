"""Fixtures that make small sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jaxcap.datasets.sources import Listing, SourceOptions
from jaxcap.datasets.sources.registry import read
from jaxcap.messages.errors import InputError


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Make placeholder image files, which no reader opens: `pictures("b/1.jpg", …)`."""

    def make(*names: str, folder: str = "source") -> Path:
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"an image")
        return tmp_path / folder

    return make


@pytest.fixture
def problems() -> Callable[..., str]:
    """Return the error message of reading a source."""

    def message(format: str, **options: object) -> str:
        with pytest.raises(InputError) as caught:
            read(format, SourceOptions(**options))  # type: ignore[arg-type]
        return str(caught.value)

    return message


@pytest.fixture
def held() -> Callable[[Listing], dict[str, dict[str, tuple[str, ...]]]]:
    """Return captions by image and split; all images must exist."""

    def of(listing: Listing) -> dict[str, dict[str, tuple[str, ...]]]:
        for examples in listing.splits.values():
            assert all(isinstance(e.image, Path) and e.image.is_file() for e in examples)
            assert len({e.image_id for e in examples}) == len(examples)
        return {
            split: {e.image_id: e.captions for e in examples}
            for split, examples in listing.splits.items()
        }

    return of
