"""Captioned images in notebooks and plots."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcap.captioning.drawing import overlay
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.messages.errors import InputError


def result(**changes: object) -> Captioned:
    """A red image with a caption of two words, the first seen upper left of 2×2 positions."""
    attention = np.array([[0.9, 0, 0, 0], [0, 0, 0, 0.5]], np.float32)
    caption = Caption("a <dog>", -1.0, (-0.1, -0.5, -0.4), attention, ("a", "<dog>"))
    fields = {"name": "photo", "captions": (caption,), "image": Image.new("RGB", (64, 32), "red")}
    return Captioned(**(fields | changes))  # type: ignore[arg-type]


def pictures(html: str) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), int)
        for data in re.findall(r"base64,([^\"]+)\"", html)
    ]


def test_attention_is_orange_where_it_is_high():
    blue = Image.new("RGB", (16, 16), "blue")
    tinted = np.asarray(overlay(blue, np.array([[0, 0.9], [0, 0]], np.float32)), int)
    assert tinted[1, 14, 0] > 180
    assert tinted[14, 1].tolist() == [0, 0, 255]
    assert np.asarray(overlay(blue, np.zeros((2, 2), np.float32)))[:, :, 0].max() == 0


def test_the_representation_is_one_short_line():
    assert repr(result()) == "<Captioned photo: 'a <dog>'>"
    assert repr(result().captions) == "(<Caption 'a <dog>': confidence 0.72>,)"
    torn = result(captions=(), error="photo: torn")
    assert repr(torn) == "<Captioned photo: error='photo: torn'>"


def test_a_notebook_shows_image_caption_and_attention():
    html = result()._repr_html_()
    assert "a &lt;dog&gt;</p>" in html
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == [
        "",
        "a  0.90",
        "&lt;dog&gt;  0.61",
    ]
    photo, first, second = pictures(html)
    assert photo.shape == (32, 64, 3)
    assert abs(photo - (254, 0, 0)).max() < 5
    assert first[2, 4, 1] > 60 > 10 > first[-3, -5, 1]
    assert second[-3, -5, 1] > 60 > 10 > second[2, 4, 1]


def test_ipython_shows_html():
    script = """
from IPython.core.interactiveshell import InteractiveShell
import jaxcap
shown, _ = InteractiveShell.instance().display_formatter.format(
    jaxcap.Captioned("x", error="x: cannot <read> it"))
print(shown["text/html"])
"""
    pytest.importorskip("IPython")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "<p>x: cannot &lt;read&gt; it</p>\n"


def test_a_plot_has_a_panel_for_each_word(tmp_path: Path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    figure = result().plot()
    assert figure.get_suptitle() == "a <dog>"
    assert [axes.get_title() for axes in figure.axes] == ["", "a  0.90", "<dog>  0.61"]
    figure.savefig(tmp_path / "plot.png")
    alone = result(captions=(Caption("a dog", -1.0),)).plot()
    assert len(alone.axes) == 1
    pyplot.close("all")


def test_what_cannot_be_plotted_says_why(monkeypatch):
    with pytest.raises(InputError, match="no such file"):
        result(captions=(), error="photo: no such file").plot()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'jaxcap\[plot\]'"):
        result().plot()
