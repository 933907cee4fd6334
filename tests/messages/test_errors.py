"""Messages: their lines, names and numbers."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from jaxcap.messages.errors import InputError, counted, did_you_mean, known_arguments, within


def test_only_the_lines_of_a_message_break_it() -> None:
    error = InputError("a\nb.jpg: damaged", "  see\tthis")
    assert str(error) == "a\\nb.jpg: damaged\n  see\\tthis"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_long_line_keeps_its_beginning_and_its_end() -> None:
    (line,) = InputError(f"a.csv: {'x' * 10**6}; rename it").args
    assert len(line) < 4000
    assert line.startswith("a.csv: xx")
    assert line.endswith("xx; rename it")


def test_an_error_keeps_its_lines_after_a_place() -> None:
    with pytest.raises(InputError) as raised, within("train.start_from"):
        raise InputError("two things differ:", "  a", "  b")
    assert str(raised.value) == "train.start_from: two things differ:\n  a\n  b"


def test_one_thing_is_singular() -> None:
    assert [counted(n, "image") for n in (0, 1, 2, 1000)] == [
        "0 images", "1 image", "2 images", "1,000 images",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "known", "near"),
    [
        ("--overwrite", ["--source", "--restart", "--workers"], None),
        ("beem", ["seed", "beam_size", "method"], "beam_size"),
        ("dgo", ["cat", "dog", "door"], "dog"),
        ("--epohcs", ["--train.epochs", "--encoder.name"], "--train.epochs"),
        ("Shapes", ["shapes", "shape"], "shapes"),
        ("capton", ["Caption", "caption"], "caption"),
        ("x", [], None),
        ("x" * 10**6, ["x" * 10**6], None),
        ("beam", ["beam" * 10**6], None),
    ],
)
def test_only_near_names_are_suggested(found: str, known: list[str], near: str | None) -> None:
    assert not did_you_mean(found, [found])  # nobody means what did not help
    assert did_you_mean(found, known) == (f" Did you mean '{near}'?" if near else "")


def test_a_missing_path_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "runs" / "holiday").mkdir(parents=True)
    near = did_you_mean(tmp_path / "runs" / "holidy")
    assert near == f" Did you mean '{tmp_path / 'runs' / 'holiday'}'?"
    assert did_you_mean(tmp_path / "run" / "x") == f" Did you mean '{tmp_path / 'runs'}'?"
    assert did_you_mean(tmp_path / "run" / "holiday") == (
        f" Did you mean '{tmp_path / 'runs' / 'holiday'}'?"
    )
    assert did_you_mean(tmp_path / "runs") == did_you_mean(tmp_path / "photos") == ""
    endless = tmp_path / "run" / ("x/" * 10_000)  # 3.5 GB for three times as many parts
    assert did_you_mean(endless) == ""


def test_an_unknown_argument_names_the_nearest_one() -> None:
    @known_arguments("beam_size", hint=" See the options.")
    def caption(image: str, *, batch_size: int = 8) -> int:
        return batch_size

    assert caption("a.jpg", batch_size=4) == 4
    for given, near in {"batch_sise": "batch_size", "beam_sise": "beam_size"}.items():
        with pytest.raises(InputError) as error:
            caption("a.jpg", **{given: 3})
        assert str(error.value) == (
            f"caption has no argument '{given}'. Did you mean '{near}'? See the options."
        )
    with pytest.raises(InputError, match=r"^caption has no argument 'beam_size'\. See the options"):
        caption("a.jpg", beam_size=3)
