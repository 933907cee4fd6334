"""Texts in encodings from before UTF-8, told by how they read."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from jaxcap.caption_files import text_files
from jaxcap.caption_files.encodings import guess, utf16
from jaxcap.caption_files.text_files import read_text
from jaxcap.messages.errors import InputError

CAPTIONS = [
    ("cp1252", "WINDOWS-1252", "un chien court à côté d'une fenêtre"),
    ("latin-1", "WINDOWS-1252", "Ein Mädchen läuft über die Straße"),
    ("cp1252", "WINDOWS-1252", "“A dog” – it’s running"),
    ("cp1251", "WINDOWS-1251", "Собака бежит по траве"),
    ("koi8_r", "KOI8-R", "Собака бежит по траве"),
    ("cp1253", "WINDOWS-1253", "Ένας σκύλος τρέχει στο γρασίδι"),
    ("cp932", "SHIFT_JIS", "犬が草の上を走っている。"),
    ("euc_jp", "EUC-JP", "犬が草の上を走っている。"),
    ("euc_kr", "CP949", "개가 잔디 위를 달리고 있다"),
    ("gb18030", "GB18030", "一只狗在草地上奔跑。"),
    ("cp950", "BIG5", "一隻狗在草地上奔跑。"),
]


@pytest.mark.parametrize(("codec", "expected", "caption"), CAPTIONS)
def test_what_a_text_looks_like(codec: str, expected: str, caption: str) -> None:
    data = f"image,caption\r\n1.jpg,{caption}\r\n2.jpg,a plain one\r\n".encode(codec)
    found = guess(data)
    assert found.iconv == expected
    assert data.decode(found.iconv) == data.decode(codec)
    assert utf16(data) == ""


def test_utf16_with_and_without_its_mark() -> None:
    text = "image,caption\n1.jpg,犬が走る\n"
    assert utf16(text.encode("utf-16")) == "UTF-16"
    assert utf16(text.encode("utf-16-le")) == "UTF-16LE"
    assert utf16(text.encode("utf-16-be")) == "UTF-16BE"
    assert utf16(text.encode()) == ""
    assert utf16(b"\0\0\0\0") == ""
    assert utf16(b"") == ""


def test_a_guess_is_made_of_anything() -> None:
    for data in (b"\xff", b"\x80\x81\xfe" * 50, bytes(range(128, 256)), b"abc \xa0 \n"):
        assert guess(data).iconv


def test_a_compressed_file_may_not_unpack_to_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "captions.txt.gz"
    path.write_bytes(gzip.compress(b"a dog\n" * 10_000))
    assert read_text(path) == "a dog\n" * 10_000
    monkeypatch.setattr(text_files, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match=r"gz: unpacks to more than 100 times its size"):
        read_text(path)


def test_a_pipe_or_device_in_a_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "captions.csv")
    os.symlink("/dev/zero", tmp_path / "captions.json")
    for name in ("captions.csv", "captions.json"):
        with pytest.raises(InputError, match=f"{name}: not a regular file"):
            read_text(tmp_path / name)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_an_endless_device_is_refused() -> None:
    with pytest.raises(InputError, match="/dev/zero: a device, not a file"):
        read_text(Path("/dev/zero"))


def test_a_pipe_of_the_shell_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a dog")
    os.close(writing)
    assert read_text(Path(f"/dev/fd/{reading}")) == "a dog"
    os.close(reading)
