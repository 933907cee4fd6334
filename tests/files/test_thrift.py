"""Structs in Thrift's compact protocol, with bytes written by hand from its specification."""

from __future__ import annotations

import pytest

from jaxcap.files.thrift import BINARY, FALSE, I32, I64, STRUCT, TRUE, Thrift, list_of


def test_a_struct() -> None:
    data = bytes.fromhex(
        "15 ac02"  # field 1, i32: 150
        "16 01"  # field 2, i64: -1
        "11 12"  # fields 3 and 4: true, false
        "08 0e 03 616263"  # field 7 in the long form: b"abc"
        "19 25 02 04"  # field 8, a list of two i32: 1, 2
        "1c 15 06 00"  # field 9, a struct with field 1, i32: 3
        "19 f1 10" + "01" * 16 + "00"  # field 10, a list of 16 booleans
    )
    thrift = Thrift(data + b"more")
    assert thrift.struct() == {
        (1, I32): 150,
        (2, I64): -1,
        (3, TRUE): True,
        (4, FALSE): False,
        (7, BINARY): b"abc",
        (8, list_of(I32)): [1, 2],
        (9, STRUCT): {(1, I32): 3},
        (10, list_of(TRUE)): [1] * 16,
    }
    assert thrift.at == len(data)
    for end in range(len(data)):
        with pytest.raises(EOFError):
            Thrift(data[:end]).struct()


@pytest.mark.parametrize(
    "data",
    [
        "15 02 05 02 04 00",  # field 1 twice
        "15 ffffffff1f 00",  # more than 32 bits
        "15 ffffffffffff",  # a number without an end
        "1b 00 00",  # a map
        "1d 00",  # an unknown type
        "1c" * 100,  # too deep
        "19 fc ffffff7f" + "00" * 100,  # fewer structs than a list says: refused at the end
        "05 feff03 02 15 02 00",  # field 32,767, and then 32,768
    ],
)
def test_malformed_structs_are_refused(data: str) -> None:
    with pytest.raises((ValueError, EOFError)):
        Thrift(bytes.fromhex(data)).struct()


def test_the_number_of_values_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxcap.files.thrift._MAX_VALUES", 1000)
    with pytest.raises(ValueError, match="too many values"):
        Thrift(bytes.fromhex("19 f3 ffff7f") + bytes(2**21)).struct()
