"""Texts in encodings from before UTF-8, told by how they read."""

from __future__ import annotations

import pytest

from jaxcap.caption_files.encodings import guess, utf16

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
