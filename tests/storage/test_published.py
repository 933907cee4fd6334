"""Published captioners: what is written is what is read, and every damage is told."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from limits import files_up_to

import jaxcap
from jaxcap.captioning.loaded_model import load
from jaxcap.datasets.prepare import load_source
from jaxcap.messages.errors import InputError
from jaxcap.model.encoders.weights.loading import export_weights
from jaxcap.storage import published

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def run(tiny_run):
    return load(tiny_run)


@pytest.fixture(scope="module")
def scenes(tiny_data):
    source = load_source("shapes", "dev", tiny_data)
    return [source[number]["image"] for number in range(len(source))]


@pytest.fixture(scope="module")
def file(run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("published") / "tiny.safetensors"
    published.write(run.single, path)
    return path


def _header(path: Path) -> dict:
    """The header as the format's specification has it: eight bytes of length, then JSON."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def _rewritten(path: Path, to: Path, *, sign: bool = True, **about: object) -> Path:
    """The file with other entries in its header, and the checksum of these."""
    tensors = safetensors.numpy.load_file(path)
    found = {**json.loads(_header(path)["__metadata__"]["jaxcap"]), **about}
    if sign:
        found.pop("sha256")
        found["sha256"] = published._digest(found, tensors)
    safetensors.numpy.save_file(tensors, to, {"jaxcap": json.dumps(found)})
    return to


@pytest.mark.slow
def test_float32_is_the_run_bit_for_bit_and_captions_as_it_does(run, file, scenes) -> None:
    found = published.read(file)
    assert found.step == run.step
    assert found.vocabulary == run.vocabulary
    assert jax.tree.structure(found.variables) == jax.tree.structure(run.variables)
    for one, other in zip(
        jax.tree.leaves(found.variables), jax.tree.leaves(run.variables), strict=True
    ):
        assert one.dtype == other.dtype == np.float32
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    again = load(file)
    assert list(again.caption(scenes)) == list(run.caption(scenes))


def test_the_file_is_what_its_documentation_says(run, file, tmp_path) -> None:
    header = _header(file)
    about = json.loads(header.pop("__metadata__")["jaxcap"])
    assert about["kind"] == "captioner"
    assert about["format"] == 1
    assert about["step"] == run.step
    assert about["vocabulary"]["words"] == list(run.vocabulary.words)
    assert about["origin"] == {"run": "tiny", "jaxcap": jaxcap.__version__}
    # No optimizer state: the tensors are the model's variables and nothing else.
    assert {name.split("/")[0] for name in header} == {"params", "batch_stats"}
    assert sum(np.prod(entry["shape"]) for entry in header.values()) == sum(
        x.size for x in jax.tree.leaves(run.variables)
    )
    assert "params/decoder/output/kernel" in header
    # Nothing tells where the data lay; the same run gives the same bytes.
    assert run.config.data.data_dir is not None
    assert run.config.data.data_dir.encode() not in file.read_bytes()
    published.write(load(file.parent / file.name).single, tmp_path / "again", dtype="float32")
    again = json.loads(_header(tmp_path / "again")["__metadata__"]["jaxcap"])
    assert again["config"] == about["config"]
    published.write(run.single, tmp_path / "same")
    assert (tmp_path / "same").read_bytes() == file.read_bytes()


def test_paths_of_the_training_machine_are_not_published(run, tmp_path) -> None:
    config = dataclasses.replace(
        run.config,
        encoder=dataclasses.replace(
            run.config.encoder, weights="/home/someone/net.pth", cache_dir="/home/someone/cache"
        ),
        train=dataclasses.replace(
            run.config.train, start_from="/home/someone/run", coordinator="someone.example:1"
        ),
    )
    published.write(dataclasses.replace(run.single, config=config), tmp_path / "x.safetensors")
    assert b"someone" not in (tmp_path / "x.safetensors").read_bytes()
    assert published.read(tmp_path / "x.safetensors").config.encoder.weights == "net.pth"


def test_bfloat16_rounds_matrices_and_keeps_vectors(run, file, tmp_path, scenes) -> None:
    half = tmp_path / "half.safetensors"
    published.write(run.single, half, dtype="bfloat16")
    assert half.stat().st_size < 0.6 * file.stat().st_size
    stored = {name: entry["dtype"] for name, entry in _header(half).items() if name[0] != "_"}
    assert stored["params/decoder/output/kernel"] == "BF16"
    assert stored["params/decoder/output/bias"] == "F32"
    assert {dtype for name, dtype in stored.items() if name.startswith("batch_stats")} == {"F32"}
    found = published.read(half).variables
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(run.variables), strict=True):
        assert one.dtype == np.float32
        rounded = np.asarray(other).astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(one, rounded if one.ndim > 1 else other)
    # Eight bits of precision: log probabilities are off by a few thousandths a word.
    for one, other in zip(load(half).caption(scenes), run.caption(scenes), strict=True):
        assert one.captions[0].log_prob == pytest.approx(other.captions[0].log_prob, abs=0.3)


def test_a_run_is_no_published_file_and_the_other_way_round(tiny_run, file, tmp_path) -> None:
    assert not published.is_published(tiny_run)
    assert published.is_published(file)
    assert published.is_published(str(file))
    assert published.is_published(tmp_path / "missing.safetensors")
    assert not published.is_published(tmp_path / "missing")
    with pytest.raises(InputError, match=r"missing\.safetensors: cannot be read"):
        load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 8, 400, -1, -4000])
def test_a_file_that_was_cut_is_told(file, tmp_path, kept) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cut\.safetensors: damaged or cut short"):
        published.read(cut)


def test_a_flipped_bit_anywhere_is_told(file, tmp_path) -> None:
    content = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    word = content.index(b"square")  # of the vocabulary
    step = content.index(b"step") + len(b'step\\": ')
    path = tmp_path / "flipped.safetensors"
    for place in (word, step, 8 + length + 3, (8 + length + len(content)) // 2, len(content) - 1):
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"flipped\.safetensors: damaged"):
            published.read(path)
        content[place] ^= 1
    path.write_bytes(content)
    assert published.read(path).step > 0


def test_other_files_are_told_from_captioners(run, tiny_run, file, tmp_path) -> None:
    others = tmp_path / "others.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, others)
    with pytest.raises(InputError, match=r"others\.safetensors: a \.safetensors file of others"):
        published.read(others)
    encoder = tmp_path / "encoder.safetensors"
    variables = {name: tree["encoder"] for name, tree in load_resnet18().items()}
    export_weights(encoder, "resnet18", variables, {})
    with pytest.raises(InputError, match=r"encoder 'resnet18', not a published captioner"):
        published.read(encoder)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff\xe0 no weights at all")
    with pytest.raises(InputError, match=r"photo\.jpg"):
        load(photo)
    with pytest.raises(InputError, match="not a regular file"):
        published.read(tiny_run)


def load_resnet18():
    from jaxcap.model.encoders.weights.fitting import encoder_shapes

    shapes = encoder_shapes("resnet18")
    return {
        name: {"encoder": jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)}
        for name, tree in shapes.items()
    }


def test_another_format_is_told(file, tmp_path) -> None:
    newer = _rewritten(file, tmp_path / "newer.safetensors", format=2, sign=False)
    with pytest.raises(InputError, match=r"newer\.safetensors: a captioner in format 2; this jax"):
        published.read(newer)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"vocabulary": {"words": ["a"]}}, "begins with <pad>"),
        ({"vocabulary": None}, "vocabulary: expected a table of options, found None"),
        ({"config": {"data": {"nam": "x"}}}, "no option 'nam'"),
        ({"config": []}, r"header\.config: expected a table"),
        ({"step": None}, r"header\.step is None"),
        ({"note": ["x"]}, r"header\.note is \['x'\]"),
        ({"step": 1e999}, r"header\.step is inf"),
        ({"config": {"train": {"epochs": -1}}}, "train.epochs is -1"),
        ({"config": {"encoder": {"name": "resnet"}}}, "encoder 'resnet' is unknown"),
        ({"config": {"encoder": {"name": "resnet18"}}}, "not those of its configuration. missing"),
    ],
)
def test_a_header_that_makes_no_captioner_is_told(file, tmp_path, about, message) -> None:
    path = _rewritten(file, tmp_path / "wrong.safetensors", **about)
    with pytest.raises(InputError, match=rf"(?s)wrong\.safetensors.*{message}"):
        published.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("params/decoder/output/bias"), "missing: params/decoder/output/bias"),
        (lambda x: x.update(more=np.zeros(2, np.float32)), "left over: more"),
        (
            lambda x: x.update({"params/decoder/output/bias": np.zeros(7, np.float32)}),
            r"of another shape: params/decoder/output/bias \[7\], expected",
        ),
        (
            lambda x: x.update(
                {"params/decoder/output/bias": x["params/decoder/output/bias"].astype(np.int32)}
            ),
            r"not of floating-point numbers: params/decoder/output/bias \(int32\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_listed(file, tmp_path, change, message) -> None:
    tensors = safetensors.numpy.load_file(file)
    about = json.loads(_header(file)["__metadata__"]["jaxcap"])
    change(tensors)
    about.pop("sha256")
    about["sha256"] = published._digest(about, tensors)
    path = tmp_path / "misfit.safetensors"
    safetensors.numpy.save_file(tensors, path, {"jaxcap": json.dumps(about)})
    with pytest.raises(InputError, match=rf"misfit\.safetensors: .*{message}"):
        published.read(path)


def test_a_description_has_one_line_for_each_entry(file, tmp_path) -> None:
    forged = "free\nuse:  another\x1b[1m"
    other = _rewritten(file, tmp_path / "a\nb.safetensors", note=forged, step=forged)
    lines = (published.describe(other) or "").split("\n")
    assert [line.partition(":")[0] for line in lines] == ["file", "is", "has", "note"]
    assert lines[-1] == r"note: free\nuse:  another\x1b[1m"


def test_a_full_disk_leaves_what_was_there(run, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    unwritten = pytest.raises(InputError, match=r"model\.safetensors: cannot be written")
    with files_up_to(20_000), unwritten:
        published.write(run.single, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="cannot be written"):
        published.write(run.single, tmp_path / "no folder" / "x.safetensors")


def test_computing_in_bfloat16_is_kept_apart_from_storing_in_it(run, tmp_path) -> None:
    config = dataclasses.replace(
        run.config, encoder=dataclasses.replace(run.config.encoder, dtype="bfloat16")
    )
    published.write(dataclasses.replace(run.single, config=config), tmp_path / "x.safetensors")
    found = published.read(tmp_path / "x.safetensors")
    assert found.config.encoder.dtype == "bfloat16"
    assert {x.dtype for x in jax.tree.leaves(found.variables)} == {jnp.dtype("float32")}
