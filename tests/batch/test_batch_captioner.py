"""`jaxcap.batch.Captioner`: columns in, columns out, the same words as the model's own."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from tiny import jpeg, write_model

import jaxcap
from jaxcap.batch import Captioner
from jaxcap.messages.errors import InputError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.mark.slow
def test_columns_agree_with_the_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "2.jpg").write_bytes(jpeg(2))
    images = [jpeg(0), b"no image", str(tmp_path / "2.jpg")]
    expected = list(jaxcap.load(model).with_search(beam_size=3).caption(images))
    assert expected[0].captions[0].text != expected[2].captions[0].text
    captioner = pickle.loads(pickle.dumps(Captioner(model, beam_size=3)))
    columns = captioner({"image": images, "id": np.array([7, 8, 9])})
    assert list(columns) == ["id", "caption", "log_prob", "confidence", "error"]
    assert columns["id"].tolist() == [7, 8, 9]
    for row, result in enumerate(expected):
        if row == 1:
            assert columns["caption"][row] is None
            assert columns["error"][row] == result.error
            assert math.isnan(columns["log_prob"][row])
            assert math.isnan(columns["confidence"][row])
        else:
            best = result.captions[0]
            assert columns["caption"][row] == best.text
            assert columns["error"][row] is None
            assert columns["log_prob"][row] == pytest.approx(best.log_prob, rel=1e-5)
            assert columns["confidence"][row] == pytest.approx(best.confidence, rel=1e-5)


@pytest.mark.slow
def test_a_model_that_has_captioned_pickles(model: Path) -> None:
    loaded = jaxcap.load(model)
    (result,) = loaded.caption([jpeg(0)])
    captioner = pickle.loads(pickle.dumps(Captioner(loaded, image="jpg")))
    columns = captioner({"jpg": np.array([jpeg(0)], object)})
    assert columns["caption"].tolist() == [result.captions[0].text]


@pytest.mark.slow
def test_paths_stay_as_the_key_of_their_captions(model: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.jpg")
    columns = Captioner(model)({"image": [missing]})
    assert columns["image"].tolist() == [missing]
    assert "missing.jpg" in columns["error"][0]
    empty = Captioner(model)({"image": []})
    assert list(empty) == list(columns)
    assert not any(map(len, empty.values()))


def test_bad_arguments_are_named(model: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'image' of images; found bytes, path"):
        Captioner(model)({"bytes": [], "path": []})
    with pytest.raises(InputError, match=r"a column 'caption' already.*; rename or drop it"):
        Captioner(model)({"image": ["a.jpg"], "caption": ["what somebody wrote"]})
    with pytest.raises(InputError, match=r"search: there is no option 'beams'"):
        Captioner(model, beams=3)({"image": []})


def test_an_empty_list_of_models_is_not_the_packaged_one() -> None:
    with pytest.raises(InputError, match="No model given"):
        Captioner([])({"image": [jpeg(0)]})
