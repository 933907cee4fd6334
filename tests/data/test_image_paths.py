"""Finding images by files, folders, patterns and lists, and sharing them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from jaxcap.data.image_paths import ImagePath, Part, image_paths
from jaxcap.messages.errors import InputError


def found(*arguments: object, listed: bytes = b"", problems: list[str] | None = None) -> list[str]:
    images = image_paths(
        [Path(str(each)) for each in arguments],
        listed=io.BytesIO(listed),
        unreadable=(lambda reason: None) if problems is None else problems.append,
    )
    return [image.path.as_posix() for image in images]


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ["b.JPG", "a.png", "c/d/e.webp", "c/a b.gif", "c/notes.txt", "[1].png", "ü/ö.jpeg"]:
        path = tmp_path / "t" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "t"


def test_a_list_without_line_breaks_is_refused() -> None:
    with pytest.raises(InputError, match=r"a line of more than 65,536 bytes, beginning with b'xxx"):
        found("-", listed=b"x" * 200_000)
    with pytest.raises(InputError, match=r"a line of more than 65,536 bytes"):
        found("-", listed=b"a.jpg\n" + b"x" * 200_000)


def test_folders_are_walked_in_order_of_name(tree):
    expected = ["t/[1].png", "t/a.png", "t/b.JPG", "t/c/a b.gif", "t/c/d/e.webp", "t/ü/ö.jpeg"]
    assert found("t") == expected
    assert found("t/b.JPG", "t/c", "t/a.png") == [expected[2], *expected[3:5], expected[1]]
    (tree / "c" / "z.png").symlink_to(tree / "a.png")
    assert found("t/c") == ["t/c/a b.gif", "t/c/d/e.webp", "t/c/z.png"]


def test_links_to_folders_are_followed_once_and_never_in_a_circle(tree, tmp_path):
    disk = tmp_path / "disk" / "2024"
    disk.mkdir(parents=True)
    (disk / "x.avif").write_bytes(b"")
    (tree / "c" / "back").symlink_to(tree)
    (tree / "c" / "up").symlink_to(tmp_path)
    (tree / "c" / "twin").symlink_to(tree / "c" / "d")
    (disk / "self").symlink_to(disk)
    (tree / "d-disk").symlink_to(disk)
    (tree / "e-disk").symlink_to(disk)
    assert found("t/**/*.avif") == ["t/d-disk/x.avif"]
    assert found("t") == [
        *("t/[1].png", "t/a.png", "t/b.JPG", "t/c/a b.gif", "t/c/d/e.webp"),
        *("t/d-disk/x.avif", "t/ü/ö.jpeg"),
    ]


def test_folders_are_entered_to_a_bounded_depth(tree, monkeypatch):
    monkeypatch.chdir(tree)
    for _ in range(150):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(tree.parent)
    problems = []
    assert found("t", problems=problems)[-1] == "t/ü/ö.jpeg"
    (problem,) = problems
    assert problem.endswith("d: more than 100 folders deep; move it up")


def test_linked_folders_within_one_another_lose_no_image(tree, tmp_path):
    """The first link leads into a folder that the second link leads to."""
    disk = tmp_path / "disk"
    (disk / "2024" / "may").mkdir(parents=True)
    for name in ("x.png", "2024/y.png", "2024/may/z.png"):
        (disk / name).write_bytes(b"")
    (tree / "c" / "1").symlink_to(disk / "2024")
    (tree / "c" / "2").symlink_to(disk)
    (disk / "2024" / "may" / "up").symlink_to(disk)
    (tree / "c" / "around").symlink_to(tmp_path)
    left_out: list[Path] = []
    paths = image_paths(
        [Path("t/c")], listed=io.BytesIO(), unreadable=print, left_out=left_out.append
    )
    assert [image.path.name for image in paths] == ["x.png", "z.png", "y.png", "a b.gif", "e.webp"]
    assert left_out == [Path("t/c/around")]


def test_hidden_files_and_folders_are_left_out_and_reported(tree):
    hidden = ["._a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/._a.png", ".notes.txt"]
    hidden += ["@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg"]
    for name in hidden:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"")
    left_out: list[Path] = []
    paths = image_paths(
        [Path("t")], listed=io.BytesIO(), unreadable=print, left_out=left_out.append
    )
    assert len(list(paths)) == 6
    assert [path.name for path in left_out] == [
        *("._a.png", ".ipynb_checkpoints", "@eaDir", "__MACOSX"),
    ]


def test_all_common_suffixes_are_found(tree):
    for name in ("a.avif", "b.JFIF", "c.heic", "d.jxl", "e.jpe", "f.jp2", "g.mp4", "h.MPO"):
        (tree / "c" / "d" / name).write_bytes(b"")
    names = [path.rpartition("/")[2] for path in found("t/c/d")]
    assert names == ["a.avif", "b.JFIF", "c.heic", "d.jxl", "e.jpe", "e.webp", "f.jp2", "h.MPO"]


def test_patterns_and_lists(tree):
    assert found("t/*.png") == ["t/[1].png", "t/a.png"]
    assert found("t/[1].png") == ["t/[1].png"]  # a file of that name comes first
    assert found("t/**/*.gif") == ["t/c/a b.gif"]
    assert found("t/**") == found("t/**/*") == found("t")
    assert found("**/c/**/*.webp") == found("**/d") == ["t/c/d/e.webp"]
    assert found("t/?") == ["t/c/a b.gif", "t/c/d/e.webp", "t/ü/ö.jpeg"]  # folders
    listed = b"t/b.JPG\nt/c\r\n\nmissing.jpg\n" + b"caf\xe9 *.png"
    assert found("-", "t/a.png", listed=listed) == [
        *["t/b.JPG", "t/c/a b.gif", "t/c/d/e.webp", "missing.jpg"],
        os.fsdecode(b"caf\xe9 *.png"),  # no pattern: whoever makes lists has the names
        "t/a.png",
    ]


@pytest.mark.parametrize(
    "listed",
    [
        "\ufefft/b.JPG\r\nt/ü/ö.jpeg\r\n".encode(),
        "t/b.JPG\r\nt/ü/ö.jpeg\r\n".encode("utf-16"),
        "\ufefft/b.JPG\nt/ü/ö.jpeg".encode("utf-16-be"),
        "t/b.JPG\0t/ü/ö.jpeg\0".encode(),
    ],
)
def test_lists_of_powershell_and_of_find_print0(tree, listed):
    assert found("-", listed=listed) == ["t/b.JPG", "t/ü/ö.jpeg"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["/photos/a.jpg\n", "/家", "./家/写真.jpg\n/家/b.png\n"])
def test_no_character_of_a_wide_encoding_becomes_a_name(tree, text, encoding):
    for mark in ("", *["\ufeff"] * encoding.startswith("utf-32")):
        with pytest.raises(
            InputError, match=r"The list of images begins with .* Write the list in"
        ):
            found("-", listed=(mark + text).encode(encoding))


def test_names_between_nul_bytes_may_hold_line_breaks(tree):
    assert found("-", listed=b"a\nb.jpg\0c.jpg\r\0") == ["a\nb.jpg", "c.jpg\r"]
    assert found("-", listed=b"x\0./y\0z.jpg\0w\0") == ["x", "y", "z.jpg", "w"]


def test_a_list_is_read_as_it_arrives(tree):
    read, write = os.pipe()
    os.write(write, b"t/b.JPG\nt/a.p")
    with open(read, "rb") as listed:
        images = image_paths([Path("-")], listed=listed, unreadable=print)
        assert next(images).path == Path("t/b.JPG")
        os.write(write, b"ng\n")
        os.close(write)
        assert [image.path for image in images] == [Path("t/a.png")]


def test_addresses_in_a_list_are_named_as_they_are(tree):
    problems: list[str] = []
    assert found("-", listed=b"https://example.org/a.jpg\n", problems=problems) == []
    assert problems[0].startswith("https://example.org/a.jpg: an address, not a file")


def test_files_that_might_be_images_are_left_out_and_reported(tree):
    others = ["IMG_1.CR2", "clip.mp4", "download", "photo.jpg?w=800", "shard.tar"]
    for name in [*others, "a.txt", "a.json", "captions.CSV"]:
        (tree / "c" / name).write_bytes(b"")
    (tree / "album.dng").mkdir()
    (tree / "album.dng" / "x.jpg").write_bytes(b"")
    left_out: list[Path] = []
    paths = image_paths(
        [Path("t")], listed=io.BytesIO(), unreadable=print, left_out=left_out.append
    )
    assert [image.within for image in paths if "c/" in image.within or "x" in image.within] == [
        *("album.dng/x.jpg", "c/a b.gif", "c/d/e.webp"),
    ]
    assert left_out == [Path("t/c") / name for name in others]
    (tree / "raw").mkdir()
    (tree / "raw" / "x.nef").write_bytes(b"")
    with pytest.raises(InputError, match=r"t/raw: no image in this folder.*\n.*: t/raw/x\.nef$"):
        found("t/raw")


def test_arguments_without_images_raise_at_once(tree):
    (tree / "empty").mkdir()
    for argument, message in [
        ("missing.jpg", "missing.jpg: no such file or folder"),
        ("*.tif", r"\*.tif: no file matches this pattern"),
        ("t/empty", "t/empty: no image in this folder"),
    ]:
        with pytest.raises(InputError, match=message):
            image_paths([tree / "a.png", Path(argument)], listed=io.BytesIO(), unreadable=print)
    with pytest.raises(InputError, match="No images given"):
        image_paths([], listed=io.BytesIO(), unreadable=print)


def test_an_invalid_file_name_counts_as_a_missing_image(tree):
    """The reader that opens it reports it, and continues with the others."""
    long = "x" * 300 + ".jpg"
    (tree / "circle.jpg").symlink_to(tree / "circle.jpg")
    assert found("t", "-", listed=f"{long}\n".encode())[3:] == [
        *("t/c/a b.gif", "t/c/d/e.webp", "t/circle.jpg", "t/ü/ö.jpeg"),
        long,
    ]
    with pytest.raises(InputError, match="no such file or folder"):
        found(long)


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(tree, monkeypatch):
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "d":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    problems: list[str] = []
    assert found("t/c", "t/a.png", problems=problems) == ["t/c/a b.gif", "t/a.png"]
    assert problems == [f"{Path('t/c/d')}: cannot read this folder: Permission denied"]
    with pytest.raises(InputError, match=r"no image.*\nt/c/d: cannot read this folder: Permission"):
        found("t/c/d")


def test_folders_are_walked_lazily(tree, monkeypatch):
    looked: list[str] = []
    scandir = os.scandir

    def watched(path: Path) -> object:
        looked.append(Path(path).as_posix())
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    images = image_paths([Path("t")], listed=io.BytesIO(), unreadable=print)
    assert next(images).path == Path("t/[1].png")
    assert set(looked) == {"t"}


def test_parts_cover_every_image_once_wherever_the_folder_is():
    names = [f"{n:05}.jpg" for n in range(2000)]
    for of in (1, 3, 4):
        parts = [Part(number, of) for number in range(1, of + 1)]
        shares = [{n for n in names if ImagePath(Path("/a") / n, n) in p} for p in parts]
        assert sum(map(len, shares)) == len(names)
        assert set.union(*shares) == set(names)
        assert min(map(len, shares)) > 0.9 * len(names) / of
        elsewhere = {n for n in names if ImagePath(Path("/mnt/b") / n, n) in parts[0]}
        assert elsewhere == shares[0]
    # The check value of CRC-32, in any text on it, is 0xCBF43926: 2 modulo 4, so the third part.
    image = ImagePath(Path("123456789"), "123456789")
    assert [image in Part(number, 4) for number in (1, 2, 3, 4)] == [False, False, True, False]
    assert Part.parse("2/4") == Part(2, 4)
    for text in ("", "2", "0/4", "5/4", "1/0", "a/b", "-1/4", "1/4/2"):
        with pytest.raises(InputError, match="--part is"):
            Part.parse(text)
