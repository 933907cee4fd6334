"""A caption file is continued only with the settings that its captions were made with."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from jaxcap.caption_files.made_with import common_record, read_record, record_of
from jaxcap.caption_files.output_formats import FORMATS
from jaxcap.caption_files.writing import CaptionWriter
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.messages.errors import InputError

BEAMS = {"model": "ab12", "search.beam_size": 5, "words": False}
WIDER = BEAMS | {"search.beam_size": 6}


def add(path: Path, name: str, text: str, **options: Any) -> None:
    with CaptionWriter(path, FORMATS["csv"](), **options) as file:
        file.add(Captioned(name, (Caption(text, -1.0),)))


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "captions.csv"
    add(path, "a.jpg", "a dog", made_with=BEAMS)
    return path


def test_the_same_settings_continue_a_file(captions: Path) -> None:
    assert read_record(captions) == BEAMS
    add(captions, "b.jpg", "a cat", made_with=dict(reversed(BEAMS.items())))
    assert captions.read_text().count("\n") == 3


def test_other_settings_are_refused_and_change_nothing(captions: Path) -> None:
    before = captions.read_bytes()
    with pytest.raises(InputError) as refused:
        add(captions, "b.jpg", "a cat", made_with=WIDER | {"model": "cd34"})
    assert "model: 'ab12', 'cd34'\n  search.beam_size: 5, 6\n" in str(refused.value)
    assert "--restart" in str(refused.value)
    assert captions.read_bytes() == before
    assert read_record(captions) == BEAMS


def test_a_restart_replaces_the_captions(captions: Path) -> None:
    add(captions, "a.jpg", "a cat", made_with=WIDER, restart=True)
    assert captions.read_text().splitlines()[1:] == ["a.jpg,a cat,-1.0000,0.3679"]
    assert read_record(captions) == WIDER


def test_a_restart_that_cannot_write_its_record_keeps_the_captions(
    captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = captions.read_bytes()

    def no_inode(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", no_inode)
    with pytest.raises(InputError, match="No space left on device"):
        add(captions, "a.jpg", "a cat", made_with=WIDER, restart=True)
    assert captions.read_bytes() == before
    assert read_record(captions) == BEAMS


@pytest.mark.parametrize("record", [None, "{", "[]"])
def test_captions_without_a_record_are_refused(captions: Path, record: str | None) -> None:
    if record is None:
        record_of(captions).unlink()
    else:
        record_of(captions).write_text(record)
    with pytest.raises(InputError, match=r"captions\.csv\.made-with, .* missing or damaged"):
        add(captions, "b.jpg", "a cat", made_with=BEAMS)


def test_a_file_without_captions_takes_any_settings(captions: Path) -> None:
    captions.write_text("image,caption,log_prob,confidence\n")
    add(captions, "a.jpg", "a cat", made_with=WIDER)
    assert read_record(captions) == WIDER


def test_joined_files_must_share_their_settings(captions: Path, tmp_path: Path) -> None:
    same, other, unknown = (tmp_path / f"{name}.csv" for name in ("same", "other", "unknown"))
    add(same, "b.jpg", "a cat", made_with=BEAMS)
    add(other, "c.jpg", "a cow", made_with=WIDER)
    add(unknown, "d.jpg", "a hen")
    assert common_record([captions, same]) == BEAMS
    assert common_record([unknown, unknown]) is None
    for odd in (other, unknown):
        with pytest.raises(InputError, match=r"search\.beam_size: 5, ('not recorded'|6)"):
            common_record([captions, odd])
