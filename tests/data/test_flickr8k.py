"""The Flickr8k builder against a tiny copy of the release, sound and spoilt."""

import numpy as np
import pytest
from PIL import Image

from jaxcap.data import flickr8k
from jaxcap.errors import InputError

NAMES = {"train": ["1_a.jpg", "2_b.jpg", "3_c.jpg"], "dev": ["4_d.jpg"]}


@pytest.fixture
def release(tmp_path):
    """A release with three photographs for training and one for development, and no test list."""
    root = tmp_path / "release"
    (root / "Flicker8k_Dataset").mkdir(parents=True)
    lines = []
    for i, name in enumerate([*NAMES["train"], *NAMES["dev"]]):
        pixels = np.full((20, 30, 3), 50 * i, np.uint8)
        Image.fromarray(pixels).save(root / "Flicker8k_Dataset" / name)
        # Numbers out of order, and a tab within a caption.
        lines += [f"{name}#{n}\tA caption\tof {name} , number {n} ." for n in (1, 0, 2)]
    lines.append("9_unlisted.jpg.1#0\tThe release has such lines , of no listed photograph .")
    (root / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    (root / "Flickr_8k.trainImages.txt").write_text("\r\n".join(NAMES["train"]) + "\n\n")
    (root / "Flickr_8k.devImages.txt").write_text("\n".join(NAMES["dev"]))
    return root


def problems(release):
    with pytest.raises(InputError) as caught:
        flickr8k.read_source(release)
    return str(caught.value)


def test_reads_the_lists_and_the_captions_in_order(release):
    splits = flickr8k.read_source(release)
    assert {s: [p.path.name for p in ps] for s, ps in splits.items()} == NAMES
    assert splits["train"][1].captions == (
        "A caption\tof 2_b.jpg , number 0 .",
        "A caption\tof 2_b.jpg , number 1 .",
        "A caption\tof 2_b.jpg , number 2 .",
    )


def test_builds_with_the_bytes_of_the_release(release, tmp_path):
    builder = flickr8k.Flickr8k(source=release, data_dir=tmp_path / "data")
    builder.download_and_prepare()
    assert {s: i.num_examples for s, i in builder.info.splits.items()} == {"train": 3, "dev": 1}
    assert builder.flippable


def test_all_problems_are_listed_at_once(release):
    photographs = release / "Flicker8k_Dataset"
    (photographs / "1_a.jpg").write_bytes((photographs / "1_a.jpg").read_bytes()[:-6])
    (photographs / "2_b.jpg").unlink()
    tokens = release / "Flickr8k.token.txt"
    kept = [line for line in tokens.read_text().split("\n") if not line.startswith("4_d")]
    tokens.write_text("\n".join(["1_a.jpg no number", "1_a.jpg#7\t  ", *kept]))
    message = problems(release)
    assert "5 problems" in message
    assert f"{tokens}, line 1: expected NAME.jpg#NUMBER<TAB>CAPTION" in message
    assert f"{tokens}, line 2: expected" in message
    assert "Flickr_8k.trainImages.txt, line 2: there is no photograph" in message
    assert "Flickr_8k.devImages.txt, line 1: 4_d.jpg has no caption" in message
    assert "1_a.jpg: cannot decode this image: image file is truncated" in message


def test_the_rest_of_many_problems_is_counted(release):
    tokens = release / "Flickr8k.token.txt"
    tokens.write_text("nonsense\n" * 25 + tokens.read_text())
    message = problems(release)
    assert "25 problems" in message
    assert "line 10:" in message
    assert "line 11:" not in message
    assert message.endswith("… and 15 more")


def test_an_image_in_two_splits_is_a_problem(release):
    (release / "Flickr_8k.devImages.txt").write_text("4_d.jpg\n2_b.jpg\n")
    message = problems(release)
    assert "devImages.txt, line 2: 2_b.jpg is listed already in" in message
    assert "trainImages.txt, line 2" in message


def test_a_name_cannot_lead_out_of_the_folder(release, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (release / "Flickr_8k.devImages.txt").write_text("../../secret.jpg\n")
    assert "there is no photograph" in problems(release)


@pytest.mark.parametrize(
    ("remove", "expected"),
    [
        ("Flickr8k.token.txt", "Flickr8k.token.txt: no such file"),
        ("Flicker8k_Dataset", "Flicker8k_Dataset: no such folder"),
        ("Flickr_8k.*", "no list of images"),
    ],
)
def test_a_missing_part_is_named(release, remove, expected):
    for path in release.glob(remove):
        path.rename(release.parent / f"moved-{path.name}")
    assert expected in problems(release)


def test_an_empty_list_is_a_problem(release):
    (release / "Flickr_8k.testImages.txt").write_text("\n")
    assert "testImages.txt: the list is empty" in problems(release)


def test_text_that_is_not_utf8_is_named(release):
    (release / "Flickr8k.token.txt").write_bytes(b"1_a.jpg#0\tcaf\xe9\n")
    assert "cannot read it as UTF-8" in problems(release)


def test_the_source_must_be_a_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        flickr8k.read_source(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        flickr8k.read_source(tmp_path / "file")
