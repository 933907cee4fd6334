"""JSON from strangers is bounded and typed, or refused with a message."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from jaxcap.files.json_data import (
    MAX_BYTES,
    MAX_DEPTH,
    Repeated,
    from_dict,
    parse_json,
    read_json,
    shown,
)
from jaxcap.messages.errors import InputError


def nested(depth: int) -> str:
    """Lists and objects in turn, `depth` of them, with a number inside."""
    pairs = "".join('[{"a":'[i % 2 * 1 : 1 + i % 2 * 5] for i in range(depth))
    return pairs + "1" + "".join("]}"[i % 2] for i in reversed(range(depth)))


@pytest.mark.parametrize("keep_repeated", [False, True])
def test_depth_is_bounded(keep_repeated: bool) -> None:
    assert json.dumps(parse_json(nested(MAX_DEPTH), keep_repeated=keep_repeated))
    for depth in (MAX_DEPTH + 1, 900, 100_000):
        with pytest.raises(ValueError, match=r"^nested too deeply$"):
            parse_json(nested(depth), keep_repeated=keep_repeated)


def test_values_that_a_repeated_name_replaces_are_bounded_too() -> None:
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    found = parse_json('{"a": 1, "a": 2}', keep_repeated=True)
    assert isinstance(found, Repeated)
    assert found.pairs == [("a", 1), ("a", 2)]
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(f'{{"a": {nested(MAX_DEPTH)}, "a": 2}}', keep_repeated=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9" * 5000, "a number has too many digits"),
        ("", "Expecting value"),
        ('{"a"', "Expecting ':'"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_text_is_a_value_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a readable manifest"),
        (b"\xff", "not a readable manifest"),
        (b"[" * 5000, r"not a readable manifest \(nested too deeply\)"),
        (b" " * (MAX_BYTES + 1), "bytes; expected at most 16,777,216"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.json: .*{message}"):
        read_json(path, "manifest")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "zero.json", "folder.json"):
        with pytest.raises(InputError, match=rf"{name}: not a regular file"):
            read_json(tmp_path / name, "manifest")


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Outer:
    inner: Inner
    ratio: float = 0.5
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (0, 0)
    names: tuple[str, ...] = ()
    table: dict[str, float] | None = None
    anything: Any = None


def test_values_become_a_dataclass() -> None:
    values = {
        "inner": {"size": 3},
        "ratio": 2,
        "kind": "b",
        "pair": [1, 2],
        "names": ["x"],
        "table": {"a": 1},
        "anything": [{}],
    }
    assert from_dict(Outer, values, where="f") == Outer(
        Inner(3), 2.0, "b", (1, 2), ("x",), {"a": 1.0}, [{}]
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"f: the option 'inner' is missing\."),
        ({"inner": {}}, r"f\.inner: the option 'size' is missing\."),
        ({"inner": {"size": True}}, r"f\.inner\.size is True \(bool\); expected int\."),
        ({"ratio": 10**400}, r"f\.ratio is 1000.*000, which is too large\."),
        ({"kind": ["a"]}, r"f\.kind is \['a'\]; it must be one of 'a', 'b'\."),
        ({"kind": {}}, r"f\.kind is \{\}; it must be one of"),
        ({"pair": [1]}, r"f\.pair is \[1\]; expected a list of int\."),
        ({"pair": [1, None]}, r"f\.pair\[1\] is None \(NoneType\); expected int\."),
        ({"names": ["x", 3]}, r"f\.names\[1\] is 3 \(int\); expected str\."),
        ({"names": "xy"}, r"f\.names is 'xy'; expected a list of str\."),
        ({"table": {"a": "b"}}, r"f\.table\['a'\] is 'b' \(str\); expected float\."),
        ({"table": []}, r"f\.table is \[\]; expected a table of options\."),
        ({"x" * 10_000: 1}, r"f: there is no option 'xxx.*xxx'\. Known: inner"),
    ],
)
def test_wrong_types_are_named(values: dict[str, Any], message: str) -> None:
    values = values if "inner" in values or not values else {"inner": {"size": 1}, **values}
    with pytest.raises(InputError, match=f"^{message}") as caught:
        from_dict(Outer, values, where="f")
    assert len(str(caught.value)) < 300


def test_values_in_messages_are_short() -> None:
    for value in ("x" * 10**6, [[1] * 10**5] * 10**5, {str(i): i for i in range(10**5)}, 10**4000):
        assert len(shown(value)) < 500
