"""`jaxcap caption --beside`: captions where other programs look, and nothing lost there."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import tyro
from rich.console import Console

from jaxcap.caption_files import xmp
from jaxcap.captioning import loaded_model
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.commands import caption
from jaxcap.messages.errors import InputError

DC, RDF = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


class Model(SimpleNamespace):
    """Captions any file with its name, and notes which images it saw."""

    note = ""

    def caption(self, images: Iterable[Path], **options: object) -> Iterator[Captioned]:
        for image in images:
            self.seen.append(image.name)
            yield Captioned(str(image), (Caption(f"a <{image.stem}>", -1.0),))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Model]:
    """Run the command in a folder with three images; return the model, with status and messages."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.png", "sub/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def call(*arguments: str) -> Model:
        model = Model(seen=[])
        monkeypatch.setattr(loaded_model, "load", lambda *paths, **options: model)
        console = Console(file=io.StringIO(), width=10_000, markup=False, highlight=False)
        given = tyro.cli(caption.CaptionArguments, args=caption.paths_last(arguments))
        model.status = caption.run(given, console)
        model.messages = console.file.getvalue()  # type: ignore[attr-defined]
        return model

    return call


@pytest.mark.parametrize("kind", ["txt", "caption"])
def test_text_beside_each_image(kind: str, command: Callable[..., Model], tmp_path: Path) -> None:
    (tmp_path / f"b.{kind}").write_text("by hand\n")
    model = command(".", "--beside", kind, "--prefix", "photo of ", "--suffix", ", outdoors")
    assert (model.status, model.seen) == (0, ["a.jpg", "c.jpg"])
    assert f"3 images captioned, 1 of them before: in .{kind} files" in model.messages
    assert (tmp_path / f"a.{kind}").read_text() == "photo of a <a>, outdoors\n"
    assert (tmp_path / "sub" / f"c.{kind}").read_text() == "photo of a <c>, outdoors\n"
    assert (tmp_path / f"b.{kind}").read_text() == "by hand\n"
    assert command(".", "--beside", kind).seen == []

    model = command(".", "--beside", kind, "--existing", "append")
    assert model.seen == ["a.jpg", "b.png", "c.jpg"]
    assert (tmp_path / f"b.{kind}").read_text() == "by hand\na <b>\n"
    command(".", "--beside", kind, "--existing", "append")
    assert (tmp_path / f"b.{kind}").read_text() == "by hand\na <b>\n"  # not twice
    command(".", "--beside", kind, "--existing", "replace")
    assert (tmp_path / f"b.{kind}").read_text() == "a <b>\n"


def test_json_keeps_what_else_it_holds(command: Callable[..., Model], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"url": "x", "caption": "old", "width": 3}')
    (tmp_path / "b.json").write_text('{"url": "y", "ü": [1, 2]}')
    command(".", "--beside", "json", "--existing", "append")

    def held(name: str) -> object:
        return json.loads((tmp_path / name).read_text())

    assert held("a.json") == {"url": "x", "caption": ["old", "a <a>"], "width": 3}
    assert held("b.json") == {"url": "y", "ü": [1, 2], "caption": "a <b>"}
    assert held("sub/c.json") == {"caption": "a <c>"}
    assert command(".", "--beside", "json").seen == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"score": 1e400, "id": 0.10}', '{"score": 1e400, "id": 0.10,\n    "caption": "a <a>"}'),
        ('{"text": "\\u00e9 }", "n":1}\r\n', '{"text": "a <a>", "n":1}\r\n'),
        ('{"a":{"caption":"x"}, "caption" :[ "y" ]}', '{"a":{"caption":"x"}, "caption" :"a <a>"}'),
        ('{"caption": "1", "caption": "2"}', '{"caption": "1", "caption": "a <a>"}'),
        (" {\n}\n", ' {\n    "caption": "a <a>"\n}\n'),
        (None, '{\n    "caption": "a <a>"\n}\n'),
    ],
)
def test_every_other_character_of_json_stays(
    before: str | None, after: str, command: Callable[..., Model], tmp_path: Path
) -> None:
    if before is not None:
        (tmp_path / "a.json").write_bytes(before.encode())
    command("a.jpg", "--beside", "json", "--existing", "replace")
    assert (tmp_path / "a.json").read_bytes() == after.encode()


@pytest.mark.parametrize(
    "captions",
    [[{"raw": "my cat", "likes": 3}, {"raw": "old"}], {"raw": "my cat"}, ["x", {"caption": "y"}]],
)
def test_objects_that_hold_captions_are_left_alone(
    captions: object, command: Callable[..., Model], tmp_path: Path
) -> None:
    before = json.dumps({"captions": captions})
    (tmp_path / "a.json").write_text(before)
    for existing in ("append", "replace"):
        model = command("a.jpg", "b.png", "--beside", "json", "--existing", existing)
        assert (model.status, model.seen) == (1, ["b.png"])
        assert "skipped: a.json: captions is " in model.messages
    assert command("a.jpg", "--beside", "json").status == 0  # it has captions
    assert (tmp_path / "a.json").read_text() == before


def test_a_line_is_appended_and_every_other_character_stays(
    command: Callable[..., Model], tmp_path: Path
) -> None:
    text = "\n  by hand\r\n\nA cat\x85 sleeps."
    (tmp_path / "a.txt").write_bytes(text.encode())
    for _ in range(2):
        command("a.jpg", "--beside", "txt", "--existing", "append")
        assert (tmp_path / "a.txt").read_bytes().decode() == text + "\na <a>\n"
    (tmp_path / "b.xmp").write_bytes(xmp.with_caption(xmp.EMPTY, "\u2028a\u2028cat\n\n\x85b"))
    for _ in range(2):
        command("b.png", "--beside", "xmp", "--existing", "append")
        assert xmp.read_caption((tmp_path / "b.xmp").read_bytes()) == "a\u2028cat\n\n\x85b\na <b>"


SIDECAR = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <r:Description r:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"
   xmp:Label="a > b&#xA;c">
   <!-- kept -->{}
  </r:Description>
 </r:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
DESCRIPTION = (
    '<d:description xmlns:d="http://purl.org/dc/elements/1.1/"><r:Alt><r:li xml:lang="de">Hund'
    '</r:li><r:li xml:lang="x-default">old &amp; grey</r:li></r:Alt></d:description>'
)


def default(path: Path) -> str | None:
    """The caption as a reader of XMP that is not ours finds it."""
    items = ElementTree.parse(path).iterfind(f".//{DC}description/{RDF}Alt/{RDF}li")
    language = "{http://www.w3.org/XML/1998/namespace}lang"
    return {item.get(language): item.text for item in items}.get("x-default")


def test_xmp_is_merged_and_every_other_byte_is_kept(
    command: Callable[..., Model], tmp_path: Path
) -> None:
    (tmp_path / "a.xmp").write_text(SIDECAR.format(""), "utf-8")
    (tmp_path / "b.png.xmp").write_text(SIDECAR.format(DESCRIPTION), "utf-8")
    assert command(".", "--beside", "xmp").seen == ["a.jpg", "c.jpg"]
    assert default(tmp_path / "a.xmp") == "a <a>"
    merged = (tmp_path / "a.xmp").read_text("utf-8")
    assert re.sub(r"<dc:description.*</dc:description>", "", merged) == SIDECAR.format("")
    assert default(tmp_path / "sub" / "c.jpg.xmp") == "a <c>"
    assert not (tmp_path / "a.jpg.xmp").exists()
    assert command(".", "--beside", "xmp").seen == []

    command("b.png", "--beside", "xmp", "--existing", "append")
    assert default(tmp_path / "b.png.xmp") == "old & grey\na <b>"
    command("b.png", "--beside", "xmp", "--existing", "replace")
    new = DESCRIPTION.replace("old &amp; grey", "a &lt;b&gt;")
    assert (tmp_path / "b.png.xmp").read_text("utf-8") == SIDECAR.format(new)


@pytest.mark.parametrize(
    "description",
    [
        "<d:description/>",
        "<d:description></d:description>",
        "<d:description><r:Alt/></d:description>",
        "<d:description><r:Alt><r:li/></r:Alt></d:description>",
        "<d:description>plain</d:description>",
    ],
)
def test_xmp_with_an_empty_or_odd_description(
    description: str, command: Callable[..., Model], tmp_path: Path
) -> None:
    named = description.replace(
        "d:description", 'd:description xmlns:d="http://purl.org/dc/elements/1.1/"', 1
    )
    (tmp_path / "a.xmp").write_text(SIDECAR.format(named), "utf-8")
    command("a.jpg", "--beside", "xmp", "--existing", "replace")
    (text,) = ElementTree.parse(tmp_path / "a.xmp").iterfind(f".//{DC}description//{RDF}li")
    assert text.text == "a <a>"


def test_the_description_of_an_ingredient_is_kept(
    command: Callable[..., Model], tmp_path: Path
) -> None:
    ingredient = f'<m:of xmlns:m="m:" r:parseType="Resource">{DESCRIPTION}</m:of>'
    (tmp_path / "a.xmp").write_text(SIDECAR.format(ingredient), "utf-8")
    assert "a.jpg" in command(".", "--beside", "xmp").seen
    merged = (tmp_path / "a.xmp").read_text("utf-8")
    assert re.sub(r"<dc:description.*</dc:description>", "", merged) == SIDECAR.format(ingredient)
    assert xmp.read_caption(merged.encode()) == "a <a>"
    both = SIDECAR.format(ingredient + DESCRIPTION).encode()
    assert (
        xmp.with_caption(both, "new")
        == both[::-1].replace(b"old &amp; grey"[::-1], b"new"[::-1], 1)[::-1]
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SIDECAR.format("").encode("utf-16"), "utf-8"),
        (SIDECAR.format("").encode("utf-16-le"), "utf-8|UTF-8"),
        (b'<?xml version="1.0" encoding="ISO-8859-1"?>' + xmp.EMPTY, "in ISO-8859-1, not in UTF-8"),
        (
            SIDECAR.format("")
            .replace('r:about=""', 'dc:description="a" xmlns:dc="http://purl.org/dc/elements/1.1/"')
            .encode(),
            "its dc:description is an attribute",
        ),
    ],
)
def test_sidecars_that_would_be_damaged_are_refused(data: bytes, message: str) -> None:
    for use in (xmp.read_caption, lambda data: xmp.with_caption(data, "new")):
        with pytest.raises(ValueError, match=message):
            use(data)


def test_files_that_cannot_be_kept_are_left_alone(
    command: Callable[..., Model], tmp_path: Path
) -> None:
    for kind, content, reason in (
        ("json", "[1]", "expected an object {…}, found [1]"),
        ("json", '{"caption": 5}', "caption is 5; expected text"),
        ("json", "{", "malformed JSON"),
        ("xmp", "junk", "not an XMP sidecar that can be kept: syntax error"),
        ("xmp", "<!DOCTYPE a []><a/>", "it declares a document type"),
        ("txt", "caf\ud8e9", "not UTF-8"),
    ):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        before = path.read_bytes()
        model = command("a.jpg", "b.png", "--beside", kind, "--existing", "replace")
        assert (model.status, model.seen) == (1, ["b.png"])
        assert f"skipped: a.{kind}" in model.messages
        assert reason in model.messages
        assert path.read_bytes() == before
        path.unlink()


def test_a_name_that_is_too_long_concerns_only_its_image(
    command: Callable[..., Model], tmp_path: Path
) -> None:
    name = f"{'x' * 251}.jpg"
    shutil.copy("a.jpg", name)
    model = command(name, "b.png", "--beside", "json")
    assert (model.status, model.seen) == (1, ["b.png"])
    assert f"{'x' * 251}.json: cannot be written: File name too long" in model.messages
    assert json.loads((tmp_path / "b.json").read_text())["caption"]


def test_two_images_with_one_file_are_not_confused(
    command: Callable[..., Model], tmp_path: Path
) -> None:
    (tmp_path / "a.png").touch()
    model = command("a.jpg", "a.png", "--beside", "txt")
    assert (model.status, model.seen) == (1, ["a.jpg"])
    assert "its captions belong into a.txt, and so do those of a.jpg" in model.messages
    assert command("a.jpg", "a.png", "--beside", "xmp").status == 0


def test_links_and_permissions_stay(command: Callable[..., Model], tmp_path: Path) -> None:
    (tmp_path / "elsewhere.txt").write_text("x")
    (tmp_path / "elsewhere.txt").chmod(0o640)
    (tmp_path / "a.txt").symlink_to("elsewhere.txt")
    command("a.jpg", "--beside", "txt", "--existing", "append")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "elsewhere.txt").read_text() == "x\na <a>\n"
    assert (tmp_path / "elsewhere.txt").stat().st_mode & 0o777 == 0o640


def test_a_link_out_of_the_folder_is_not_written_to(
    command: Callable[..., Model], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other") / "keys"
    other.write_text("dear\n")
    (tmp_path / "a.txt").symlink_to(other)
    for existing in ("append", "replace"):
        model = command("a.jpg", "--beside", "txt", "--existing", existing)
        assert model.status == 1
        assert f"a.txt: a link to {other}, outside its folder" in model.messages
    assert other.read_text() == "dear\n"


def test_a_failed_write_loses_nothing_and_says_so(
    command: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("x\n")

    def full(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"a\.txt: cannot write: No space left on device.*repeat"):
        command("a.jpg", "--beside", "txt", "--existing", "append")
    assert (tmp_path / "a.txt").read_text() == "x\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.txt", "b.png", "sub"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--beside", "txt", "--output", "x.csv"), "--output has no effect"),
        (("--beside", "txt", "--json"), "--json has no effect"),
        (("--prefix", "x"), "--prefix needs --beside"),
        (("--existing", "append"), "--existing needs --beside"),
    ],
)
def test_options_without_effect_are_refused(
    arguments: tuple[str, ...], message: str, command: Callable[..., Model]
) -> None:
    with pytest.raises(InputError, match=message):
        command("a.jpg", *arguments)


def test_deep_and_long_sidecars_are_read() -> None:
    for inside in (b"<a>" * 9999 + b"</a>" * 9999, b"\n" * 99_999):
        before = xmp.with_caption(xmp.EMPTY, "A dog.")
        data = before.replace(b"</rdf:li>", inside + b"</rdf:li>")
        assert xmp.read_caption(xmp.with_caption(data, "A cat.")) == "A cat."
