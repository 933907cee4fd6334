"""Names of splits, and drawing splits by a hash of names."""

from __future__ import annotations

import hashlib
import unicodedata

import pytest

from jaxcap.datasets.sources.splits import canonical, check_fractions, draw, in_order
from jaxcap.messages.errors import InputError

THIRDS = {"train": 1 / 3, "dev": 1 / 3, "test": 1 / 3}


def test_common_names_are_unified():
    names = [
        "train",
        "Training",
        "restval",
        "VAL",
        "valid",
        "validation",
        " dev ",
        "test",
        "fold_1",
    ]
    assert [canonical(name) for name in names] == ["train"] * 3 + ["dev"] * 4 + ["test", "fold_1"]
    for name in ["", "all", "my split", "train[:5]", "1", "ü"]:
        with pytest.raises(InputError, match="expected train, dev"):
            canonical(name)
    assert in_order(["b", "test", "a", "train", "b"]) == ["train", "test", "b", "a"]


def test_draw_against_precomputed_hashes():
    # printf a.jpg | sha256sum: 509b…, or 0.3149 of the way; b.jpg: 7a12…, 0.4768.
    assert draw("a.jpg", THIRDS) == "test"
    assert draw("b.jpg", THIRDS) == "dev"
    for name in ["c.jpg", "x/ü.png", "7", "#"]:
        number = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 16**16
        expected = "test" if number < 1 / 3 else "dev" if number < 2 / 3 else "train"
        assert draw(name, THIRDS) == expected


def test_fractions_are_met_and_other_images_do_not_matter():
    shares = {"train": 0.7, "dev": 0.1, "test": 0.2}
    drawn = [draw(f"{n}.jpg", shares) for n in range(20_000)]
    for split, share in shares.items():
        # Three standard deviations of a binomial.
        assert abs(drawn.count(split) / 20_000 - share) < 3 * (share * (1 - share) / 20_000) ** 0.5


def test_changing_the_fraction_of_dev_keeps_the_test_split():
    names = [f"{n}" for n in range(2000)]
    before = {n for n in names if draw(n, {"train": 0.8, "dev": 0.1, "test": 0.1}) == "test"}
    after = {n for n in names if draw(n, {"test": 0.1, "dev": 0.3, "train": 0.6}) == "test"}
    assert before == after


def test_unicode_forms_of_a_name_get_the_same_split():
    for n in range(50):
        composed = f"é{n}.jpg"
        assert draw(composed, THIRDS) == draw(unicodedata.normalize("NFD", composed), THIRDS)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"train": 0.5}, r"\(train 0.5\) add up to 0.5; expected 1"),
        (
            {"train": 1.5, "dev": -0.5},
            "fraction of the split 'train' is 1.5; expected 0 < fraction",
        ),
        ({"dev": 0.5, "val": 0.5}, "name 'dev' twice"),
        ({"dev": float("nan")}, "is nan"),
    ],
)
def test_invalid_fractions_are_refused(shares, message):
    with pytest.raises(InputError, match=message):
        check_fractions(shares)
