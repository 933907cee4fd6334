"""Writing a file whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxcap.files import write_text


def test_a_file_is_replaced_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("old", "né\udcff"):
        write_text(path, text)
    assert path.read_bytes() == "né?".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def full(self: Path, text: str, **options: str) -> None:
        self.write_bytes(text.encode()[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new text")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
