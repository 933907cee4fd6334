"""Normal forms of any text: the standard library's, and in linear time."""

from __future__ import annotations

import unicodedata
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcap.files.normal_form import normal_form


@settings(max_examples=30)
@given(st.text(), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_ordinary_texts_have_the_normal_form_of_the_standard_library(text, form):
    long = (text + " ") * (1 + 1000 // (len(text) + 1))
    assert normal_form(form, text) == unicodedata.normalize(form, text)
    assert normal_form(form, long) == unicodedata.normalize(form, long)


@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0f73", "\u0344\u0316"])
def test_long_runs_of_marks_are_divided(marks):
    text = "a" + marks * 100_000
    for form in ("NFC", "NFKD"):
        found = normal_form(form, text)
        runs = [len([*run]) for ccc, run in groupby(found, unicodedata.combining) if ccc]
        assert max(runs) <= 60
        assert found.replace("\u034f", "").startswith(unicodedata.normalize(form, "a" + marks)[0])
        assert len(found) <= len(unicodedata.normalize("NFKD", marks)) * 100_000 * 1.1
