"""Inspection against numbers worked out by hand and planted copies."""

import dataclasses
import io
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from rich.console import Console

from jaxcap.config import DataConfig
from jaxcap.data.captions import SplitCaptions
from jaxcap.datasets.inspection import caption_warnings, duplicates, inspect, warnings
from jaxcap.datasets.inspection.caption_statistics import (
    count_captions,
    count_split_captions,
    coverage,
)
from jaxcap.datasets.inspection.data_statistics import DataStatistics, ImageStatistics, Repeats
from jaxcap.datasets.inspection.data_tables import as_tables
from jaxcap.datasets.inspection.duplicates import Shared
from jaxcap.datasets.inspection.hazards import share
from jaxcap.datasets.inspection.image_properties import difference, fingerprint, look_at

TRAIN = [[["a", "dog"], ["a", "dog", "runs"]], [["a", "cat"], []], []]


def photograph(seed, size=(96, 64)):
    """Soft blotches, as different from each other as photographs."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def record(image, image_id, *captions):
    return {"image": image, "image_id": image_id, "captions": list(captions)}


# Captions


def test_counts_by_hand():
    train = count_captions(TRAIN)
    assert (train.images, train.captions, train.running_words) == (3, 3, 7)
    assert train.per_image == {0: 1, 1: 1, 2: 1}
    assert train.lengths == {2: 2, 3: 1}
    assert (train.wordless, train.repeated) == (1, 0)
    assert train.words == {"a": 3, "dog": 2, "runs": 1, "cat": 1}
    assert train.rarest == {1: 2, 2: 1}  # "runs" and "cat" once, "dog" twice
    assert train.mean_length == pytest.approx(7 / 3)
    assert [train.percentile(p) for p in (0, 50, 67, 100)] == [2, 2, 3, 3]
    assert [train.longer_than(n) for n in (1, 2, 3)] == [3, 1, 0]


def test_coverage_by_hand():
    train = count_captions(TRAIN)
    dev = count_captions([[["a", "bird"], ["a", "dog"], ["a", "dog"]]], known=train.words)
    assert dev.repeated == 1
    found = coverage(train, train.words, min_count=2)
    assert (found.vocabulary, found.unknown, found.whole) == (2, 2 / 7, 1 / 3)
    found = coverage(train, train.words, min_count=3)
    assert (found.vocabulary, found.unknown, found.whole) == (1, 4 / 7, 0)
    found = coverage(dev, train.words, min_count=1)
    assert (found.vocabulary, found.unknown, found.whole) == (4, 1 / 6, 2 / 3)
    with pytest.raises(ValueError, match="expected 1 to 20"):
        coverage(train, train.words, min_count=21)


CAPTION = st.lists(st.sampled_from("abcdefg"), max_size=5)


@hypothesis.given(st.lists(st.lists(CAPTION, max_size=4), max_size=12), st.integers(1, 6))
def test_one_pass_counts_what_two_do(texts, frequent):
    found = count_captions(texts, frequent=frequent)
    said = [words for captions in texts for words in captions if words]
    often = {w: sum(words.count(w) for words in said) for words in said for w in words}
    for least in range(1, frequent + 1):
        whole = sum(all(often[word] >= least for word in words) for words in said)
        lost = sum(often[word] < least for words in said for word in words)
        share = coverage(found, found.words, min_count=least)
        assert share.whole == whole / max(1, len(said))
        assert share.unknown == lost / max(1, sum(map(len, said)))
    without = [[words for words in captions if words] for captions in texts]
    packed = count_split_captions(SplitCaptions.collect(without), frequent=frequent)
    assert packed == dataclasses.replace(found, wordless=0, repeated=None)


# Pictures


def test_look_at_describes_a_file():
    image = photograph(0, (200, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # held sideways
    picture = look_at(encoded(image, exif=exif), "a", decoded=True)
    assert (picture.width, picture.height, picture.kind) == (100, 200, "JPEG RGB")
    palette = look_at(encoded(image.convert("P"), "PNG"), "a", decoded=True)
    assert (palette.width, palette.height, palette.kind) == (200, 100, "PNG P")
    nearly = look_at(encoded(photograph(0, (500, 499))), "a", decoded=True)
    assert (nearly.width, nearly.height) == (500, 499)  # a square, decoded at an eighth
    assert look_at(b"", "a", decoded=True).problem == "the file is empty"
    assert look_at(b"", "a", decoded=False).problem is None


def test_a_fingerprint_by_hand():
    ramp = np.repeat(np.arange(0, 144, dtype=np.uint8)[None], 144, axis=0)
    rising = np.stack([ramp] * 3, axis=2)  # brighter from left to right, alike from top to bottom
    assert np.unpackbits(np.frombuffer(fingerprint(rising), np.uint8)).sum() == 64
    assert not any(fingerprint(np.ascontiguousarray(rising[:, ::-1])))
    both = rising // 2 + rising.transpose(1, 0, 2) // 2
    assert np.unpackbits(np.frombuffer(fingerprint(both), np.uint8)).sum() == 128


def test_difference_of_images():
    grey, lighter, red = (Image.new("RGB", (64, 64), c) for c in ("#808080", "#909090", "#ff0000"))
    assert difference(encoded(grey, "PNG"), encoded(lighter, "PNG")) == (0.0, 0.0)
    # 127, 128 and 128 levels apart, of which a cast of 30 each is taken for granted.
    assert difference(encoded(red, "PNG"), encoded(grey, "PNG"))[0] == pytest.approx(
        (97 + 98 * 2) / 3
    )
    dotted = grey.copy()
    dotted.paste("#ffffff", (0, 0, 2, 2))  # one place of 32×32: 127 levels
    mean, most = difference(encoded(dotted, "PNG"), encoded(grey, "PNG"))
    assert most == pytest.approx(127 * 1023 / 1024)
    assert mean == pytest.approx(2 * 127 * 1023 / 1024**2)


# What is there more than once


def test_groups_and_what_splits_share_by_hand():
    keys = np.array([5, 3, 5, 5, 3, 1], np.uint64)
    assert duplicates.groups_of(keys) == [[0, 2, 3], [1, 4]]
    assert duplicates.groups_of(keys[:0]) == []
    assert duplicates.joined([[0, 2], [3, 4], [2, 4], [7, 9]]) == [[0, 2, 3, 4], [7, 9]]
    shared = duplicates.shared(
        [[0, 1, 10], [11, 12]], lambda n: "train" if n < 10 else "dev", ["train", "dev"]
    )
    assert shared == [
        Shared(("train", "train"), 1),
        Shared(("train", "dev"), 1),
        Shared(("dev", "dev"), 1),
    ]


@pytest.mark.slow
def test_similar_fingerprints_equal_brute_force():
    rng = np.random.default_rng(0)
    prints = rng.integers(0, 256, (60, 16), np.uint8)
    for copy in range(30):  # copies of the first thirty, up to 7 bits away
        bits = np.unpackbits(prints[copy])
        bits[rng.choice(128, copy % 8, replace=False)] ^= 1
        prints[30 + copy] = np.packbits(bits)
    expected = [
        pair
        for pair in itertools.combinations(range(60), 2)
        if np.unpackbits(prints[pair[0]] ^ prints[pair[1]]).sum() <= 7
    ]
    assert len(expected) == 30
    pairs, complete = duplicates.alike(prints, most=7)
    assert sorted(map(tuple, pairs.tolist())) == expected
    assert complete
    same = np.zeros((600, 16), np.uint8)
    assert not duplicates.alike(same)[1]
    assert len(duplicates.alike(prints[:1])[0]) == len(duplicates.alike(prints[:0])[0]) == 0


@pytest.fixture(scope="module")
def planted():
    """dev holds an identical file, four copies, a similar image, and a file without an image."""
    files = [encoded(photograph(n), quality=90) for n in range(8)]
    images = [Image.open(io.BytesIO(file)) for file in files]
    train = [record(f, f"{n}.jpg", "a dog runs", f"number {n}") for n, f in enumerate(files)]
    train += [record(files[7], "again.jpg", "A dog runs."), record(files[6], "bare.jpg")]
    dev = [
        record(files[0], "0.jpg", "a dog runs", "a dog runs"),
        record(encoded(images[1], quality=40), "quality", "x"),
        record(encoded(images[2].resize((48, 32))), "half", "x y"),
        record(encoded(images[3], "PNG"), "png", "x"),
        record(encoded(ImageEnhance.Brightness(images[4]).enhance(1.1)), "bright", "x"),
        record(encoded(photograph(99)), "new", "x"),
        record(encoded(images[5].transpose(Image.Transpose.FLIP_LEFT_RIGHT)), "mirrored", "x"),
        record(b"<html>", "page", "x"),
    ]
    return {"dev": dev, "train": train}


def test_planted_copies_are_found(planted):
    seen = []
    found = inspect("planted", planted, min_count=1, progress=lambda *a: seen.append(a), threads=2)
    assert list(found.captions) == ["train", "dev"]  # the vocabulary's first
    assert seen[:2] == [("train", 1, 10), ("train", 2, 10)]
    assert found.same_images.shared == (Shared(("train", "train"), 2), Shared(("train", "dev"), 1))
    assert found.alike_images.shared == (Shared(("train", "train"), 2), Shared(("train", "dev"), 5))
    across = found.alike_images.examples[:5]
    assert [[place.image_id for place in group.places] for group in across] == [
        ["0.jpg", "0.jpg"],
        ["1.jpg", "quality"],
        ["2.jpg", "half"],
        ["3.jpg", "png"],
        ["4.jpg", "bright"],
    ]
    assert found.same_names.shared == (Shared(("train", "dev"), 1),)
    # Nine times in train, punctuation and capitals aside; twice in dev; "x" six times there.
    assert found.same_captions.between("train", "train") == 8
    assert found.same_captions.between("train", "dev") == 2
    assert found.same_captions.between("dev", "dev") == 1 + 5
    most = found.same_captions.examples[0]
    assert (most.count, most.places[0].text, most.places[0].image_id) == (11, "a dog runs", "0.jpg")
    assert found.images["train"].sizes == {(96, 64): 10}
    assert found.images["dev"].sizes == {(48, 32): 1, (96, 64): 6}
    assert found.images["dev"].kinds == {"JPEG RGB": 6, "PNG RGB": 1}
    assert found.images["dev"].unreadable == 1
    assert found.images["dev"].problems[0][0] == "page"


def test_identical_files_are_found_without_decoding(planted):
    found = inspect("planted", planted, min_count=30, images=False)
    assert (found.images, found.alike_images) == ({}, None)
    assert found.same_images.between("train", "dev") == 1
    assert found.captions["train"].frequent == 30


# Warnings


def kinds(statistics, **options):
    return {w.kind: w for w in warnings(statistics, DataConfig(**{"min_count": 1} | options))}


def captions_of(*lengths, per_image=1, images=100):
    """Make `images` images with the given numbers of captions, of the given lengths in turn."""
    turns = itertools.cycle(lengths)
    return count_captions([["w"] * next(turns) for _ in range(per_image)] for _ in range(images))


def test_sound_data_has_no_warnings():
    data = DataStatistics("d", {"train": captions_of(5, per_image=2, images=5000)})
    assert kinds(data, captions_per_image=2) | {"repeated-captions": 0} == {"repeated-captions": 0}


def test_fine_tuning_is_advised_for_few_images():
    few = DataStatistics("mine", {"train": captions_of(5, images=241)})
    first, *_ = warnings(few, DataConfig())
    assert "train: 241 images are few" in first.text
    assert "jaxcap finetune --data mine" in first.text
    letters = DataStatistics("mine", {"train": captions_of(5, images=9)}, units="characters")
    assert kinds(letters)["near-empty"].text == "train: only 9 images to train on"


def test_tables_fit_a_terminal_of_80_columns():
    splits = {name: captions_of(*range(9), per_image=5, images=6000) for name in ("train", "dev")}
    splits["test"] = captions_of(300)
    sizes = ImageStatistics({(500, 333): 90, (240, 320): 9}, {"JPEG RGB": 98, "PNG RGBA": 1}, 0, ())
    data = DataStatistics("d", splits, images=dict.fromkeys(splits, sizes))
    for table in as_tables(data, min_count=5):
        console = Console(file=io.StringIO(), width=80)
        console.print(table)
        printed = console.file.getvalue()
        cells = [cell for each in table.columns for cell in (each.header, *each.cells)]
        # Cells may wrap, but no word is cut.
        assert not [word for cell in cells for word in cell.split() if word not in printed]


def test_captions_beyond_the_longest_bucket():
    # 16 tokens hold 14 words.
    assert "too-long" not in kinds(
        DataStatistics("d", {"train": captions_of(14)}), length_buckets=(16,)
    )
    train = captions_of(*[14] * 9, 20, images=2000)
    found = kinds(DataStatistics("d", {"train": train}), length_buckets=(8, 16))["too-long"]
    assert found.level == "warning"
    assert "200 of 2,000 (10.0 %)" in found.text
    assert found.text.endswith("22 holds all: --data.length-buckets 8 16 22")
    train = captions_of(*[14] * 1998, 17, 40, images=4000)
    found = kinds(DataStatistics("d", {"train": train}), length_buckets=(16,))["too-long"]
    assert "4 of 4,000 (0.1 %)" in found.text
    assert found.level == "note"


def test_letters_that_the_scorer_drops():
    texts = [[["a", "ಹುಲಿ"], ["a", "dog"]]] * 100
    data = DataStatistics("d", {"train": count_captions(texts)})
    found = kinds(data, captions_per_image=2)["lost-letters"]
    assert found.level == "warning"
    assert "100 of 400 (25.0 %) running words" in found.text
    assert "--evaluation.units characters" in found.text
    assert "--data.units pieces" in found.text
    in_pieces = dataclasses.replace(data, units="pieces")
    assert "lost-letters" not in kinds(in_pieces, captions_per_image=2)


def test_unknown_words():
    texts = [[[f"rare{n // 2}", *["common"] * 9]] for n in range(200)]  # a tenth of the words
    data = DataStatistics("d", {"train": count_captions(texts)})
    found = kinds(data, min_count=5)["unknown-words"].text
    assert "train: 10.0 % of the running words become <unk> at data.min_count 5" in found
    assert "100.0 % of the captions have one; data.min_count 2 would leave 5% or less" in found
    assert "unknown-words" not in kinds(data, min_count=2)
    strange = count_captions([[["mot"]]] * 100, known=data.known)
    both = DataStatistics("d", {**data.captions, "dev": strange})
    assert "dev: 100.0 %" in kinds(both, min_count=2)["unknown-words"].text
    assert "another kind" in kinds(both, min_count=2)["unknown-words"].text
    assert "no-vocabulary" in kinds(
        DataStatistics("d", {"train": captions_of(1, images=3)}), min_count=9
    )


def test_splits_and_numbers_of_captions():
    few = DataStatistics(
        "d", {"train": captions_of(3, per_image=2), "dev": captions_of(3, images=1)}
    )
    found = kinds(few, captions_per_image=8)
    assert "dev: only 1 image, so scores are mostly chance" in found["near-empty"].text
    assert "75.0 % of the decoder's work is on padding" in found["unfilled-captions"].text
    assert "--data.captions-per-image 2" in found["unfilled-captions"].text
    assert (
        "100 of 200 (50.0 %) captions are never"
        in kinds(few, captions_per_image=1)["unused-captions"].text
    )
    assert "no-train" in kinds(DataStatistics("d", {"dev": captions_of(3)}))
    bare = count_captions([[["a"]], [], [[]], []])
    found = kinds(DataStatistics("d", {"train": bare}))
    assert "3 of 4 (75.0 %) images have no caption" in found["no-captions"].text
    assert "1 caption without words" in found["no-words"].text


def test_images_and_leaks():
    sizes = ImageStatistics({(50, 80): 60, (300, 400): 40}, {"JPEG RGB": 100}, 1, (("a", "torn"),))
    leak = Repeats((Shared(("train", "test"), 3), Shared(("train", "train"), 1)))
    more = Repeats((Shared(("train", "test"), 7),))
    data = DataStatistics(
        "d",
        {"train": captions_of(5), "test": captions_of(5)},
        images={"train": sizes},
        same_images=leak,
    )
    found = kinds(data, image_size=100)
    assert (
        "60 of 100 (60.0 %) images have a side below data.image_size 100" in found["enlarged"].text
    )
    assert "by 2.0 times or more" in found["enlarged"].text
    assert "--data.image-size 50" in found["enlarged"].text
    assert "enlarged" not in kinds(data, image_size=50)
    # A few small images are no reason for another size.
    smaller = dataclasses.replace(sizes, sizes={(300, 400): 60, (50, 80): 40})
    few = kinds(dataclasses.replace(data, images={"train": smaller}), image_size=100)["enlarged"]
    assert few.text.endswith("are enlarged")
    assert "1 of 101" in found["unreadable"].text
    assert found["leak"].text.startswith("test: 3 of 100 (3.0 %) images are also in train")
    assert found["repeated-images"].level == "note"
    both = dataclasses.replace(data, alike_images=more)
    leaks = [w.text for w in warnings(both, DataConfig()) if w.kind == "leak"]
    assert [text.split(" (")[0] for text in leaks] == ["test: 3 of 100", "test: 7 of 100"]
    # What hurts comes first.
    levels = [w.level for w in warnings(both, DataConfig(min_count=1))]
    assert levels == sorted(levels, reverse=True)


def test_training_warns_about_its_captions():
    texts = SplitCaptions.collect([[["w"] * 40] * 5] * 100)
    found = caption_warnings(texts, DataConfig(min_count=30))
    assert [w.kind for w in found] == ["few-images", "too-long"]
    assert caption_warnings(SplitCaptions.collect([]), DataConfig())[0].kind == "few-images"


def test_words_for_sides_are_reported_if_images_are_mirrored():
    captions = [["a", "dog", "on", "the", "left"]] * 3 + [["a", "dog"]] * 196 + [["right"]]
    data = DataStatistics("d", {"train": count_captions([c] for c in captions)})
    found = kinds(data, flip=True)["mirrored"]
    assert "'left' 3 times and 'right' 1 time in 200 captions" in found.text
    assert found.level == "warning"
    assert "mirrored" not in kinds(data)
    few = DataStatistics("d", {"train": count_captions([c] for c in captions[3:])})
    assert kinds(few, flip=True)["mirrored"].level == "note"
    assert "mirrored" not in kinds(DataStatistics("d", {"train": captions_of(5)}), flip=True)


def test_shares_do_not_round_to_0_or_100():
    assert share(12, 300) == "12 of 300 (4.0 %)"
    assert share(1, 6000) == "1 of 6,000 (0.017 %)"
    assert share(5999, 6000) == "5,999 of 6,000 (99.983 %)"
    assert (share(0, 5), share(5, 5)) == ("0 of 5 (0.0 %)", "5 of 5 (100.0 %)")
