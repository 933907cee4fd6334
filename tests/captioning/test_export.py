"""A captioner as a StableHLO program: it says what the library says, with JAX alone."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limits import files_up_to
from PIL import Image

from jaxcap.captioning import export
from jaxcap.captioning.loaded_model import LoadedModel, load
from jaxcap.data.images import decode
from jaxcap.datasets.prepare import load_source
from jaxcap.messages.errors import InputError
from jaxcap.model.encoders.conv import written_for
from jaxcap.text.units import Characters, Pieces
from jaxcap.text.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def run(tiny_run):
    return load(tiny_run)


@pytest.fixture(scope="module")
def scenes(tiny_data):
    """The eleven scenes of dev and test, 80 pixels a side."""
    sources = [load_source("shapes", split, tiny_data) for split in ("dev", "test")]
    return [decode(s[n]["image"], name="") for s in sources for n in range(len(s))]


@pytest.fixture(scope="module")
def written(run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "captioner.stablehlo"
    export.write_program(run.single, path)
    return path


# Runs the document's code as it stands, where nothing but JAX, NumPy and Pillow can be imported
# (and what these need), and then the same program with other numbers of images.
_ALONE = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {
            "jaxcap", "flax", "optax", "orbax", "safetensors", "grain", "jaxtyping",
            "tensorflow_datasets",
        }:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
code = sys.stdin.read()
sys.argv = ["caption.py", *sys.argv[1:]]
exec(compile(code, "docs/export.md", "exec"))
more = np.load("images.npy")
found = [[x.tolist() for x in caption(more[:size])] for size in (1, 3, 8)]
json.dump(found, open("found.json", "w"))
"""


def test_the_documented_example_says_what_the_library_says(written, run, scenes) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names = [f"scene {number}.png" for number in range(3)]
    for name, scene in zip(names, scenes, strict=False):
        Image.fromarray(scene).save(written.parent / name)
    small = np.stack([Image.fromarray(x).resize((32, 32)) for x in scenes[:8]])
    np.save(written.parent / "images.npy", small)
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, *names],
        input=code,
        cwd=written.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = [each.captions for each in run.caption(scenes[:8])]
    best = [captions[0].text for captions in expected]
    assert len(set(best)) > 2
    assert done.stdout == "".join(
        f"{name}\t{text}\n" for name, text in zip(names, best, strict=False)
    )
    found = json.loads((written.parent / "found.json").read_text())
    about = json.loads((written.parent / "captioner.json").read_text())
    for size, (tokens, log_probs, word_log_probs) in zip((1, 3, 8), found, strict=True):
        assert len(tokens) == size
        assert [
            ["".join(about["vocabulary"][i] for i in ids).strip() for ids in of_image]
            for of_image in tokens
        ] == [[caption.text for caption in captions] for captions in expected[:size]]
        np.testing.assert_allclose(
            log_probs, [[c.log_prob for c in captions] for captions in expected[:size]], atol=1e-4
        )
        np.testing.assert_allclose(np.sum(word_log_probs, axis=-1), log_probs, atol=1e-4)


def test_the_documented_example_refuses_a_damaged_program(written, tmp_path) -> None:
    (code,) = re.findall(r"```python\n(.*?)\nphotos", DOCUMENT.read_text("utf-8"), re.DOTALL)
    content = bytearray(written.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "captioner.stablehlo").write_bytes(content)
    (tmp_path / "captioner.json").write_bytes(export.description_path(written).read_bytes())
    with pytest.raises(SystemExit, match=r"captioner\.stablehlo is damaged"):
        exec(code.replace('Path("', f'Path("{tmp_path}/'), {})


def test_the_file_holds_the_exported_program(run, written) -> None:
    original = export.export_program(run.single)
    restored = jax.export.deserialize(bytearray(written.read_bytes()))
    assert restored.mlir_module_serialized == original.mlir_module_serialized
    assert restored.platforms == original.platforms
    for name in ("in_avals", "out_avals"):  # each has its own symbols, written alike
        assert str(getattr(restored, name)) == str(getattr(original, name))


def test_the_description_is_right(run, written) -> None:
    about = json.loads(export.description_path(written).read_text(encoding="utf-8"))
    content = written.read_bytes()
    assert b"ML\xefR" in content  # MLIR bytecode
    assert about["program"] == "captioner.stablehlo"
    assert about["sha256"] == hashlib.sha256(content).hexdigest()
    assert about["image_size"] == 32
    assert about["platforms"] == ["cpu", "cuda", "rocm", "tpu"]
    assert about["search"]["beam_size"] == 2
    assert about["outputs"] == [
        {"name": "tokens", "shape": [2, 13], "dtype": "int32"},
        {"name": "log_probs", "shape": [2], "dtype": "float32"},
        {"name": "word_log_probs", "shape": [2, 13], "dtype": "float32"},
    ]
    assert len(about["vocabulary"]) == len(run.vocabulary)
    assert about["vocabulary"][:4] == ["", "", "", " <unk>"]
    # Nothing of the machine that it was made on.
    for path in (Path(jax.__file__).parents[1], Path(export.__file__).parent, Path.home()):
        assert str(path).encode() not in content
    # The numbers are there once, for all platforms.
    numbers = sum(x.nbytes for x in jax.tree.leaves(run.variables))
    assert numbers < len(content) < numbers + 1_000_000


def test_attention_another_search_and_bfloat16(run, scenes, tmp_path) -> None:
    other = run.with_search(beam_size=3, max_length=7)
    path = tmp_path / "other.stablehlo"
    export.write_program(other.single, path, attention=True, dtype="bfloat16", platforms=("cpu",))
    about = json.loads((tmp_path / "other.json").read_text())
    assert [(x["name"], x["shape"]) for x in about["outputs"]] == [
        ("tokens", [3, 8]),
        ("log_probs", [3]),
        ("word_log_probs", [3, 8]),
        ("attention", [3, 8, 4]),
    ]
    numbers = sum(x.size for x in jax.tree.leaves(run.variables))
    assert path.stat().st_size < 2.4 * numbers + 400_000
    exported = export.export_program(
        other.single, attention=True, dtype="bfloat16", platforms=("cpu",)
    )
    assert bytes(exported.serialize()) == path.read_bytes()
    images = np.stack([Image.fromarray(x).resize((32, 32)) for x in scenes[:4]])
    tokens, log_probs, _, attention = exported.call(images)
    expected = list(other.caption(scenes[:4]))
    texts = export._texts(run.vocabulary)
    assert (tokens != 0).sum(axis=-1).max() <= 8
    np.testing.assert_allclose(attention[:, 0, 0].sum(axis=-1), 1, atol=1e-5)
    for ids, log_prob, result in zip(tokens[:, 0], log_probs[:, 0], expected, strict=True):
        assert "".join(texts[i] for i in ids).strip()
        assert float(log_prob) == pytest.approx(result.captions[0].log_prob, abs=0.3)


def test_each_platform_gets_its_own_convolutions_and_the_same_numbers(run, scenes) -> None:
    images = jnp.stack([np.asarray(Image.fromarray(x).resize((32, 32))) for x in scenes[:2]])

    @jax.jit  # traced again for each platform
    def encode(images):
        return run.model.apply(run.variables, images, method="encode")

    def traced(platform: str) -> tuple[int, np.ndarray]:
        with written_for(platform):
            program = str(jax.make_jaxpr(encode)(images))
            return program.count("conv_general_dilated["), encode(images)

    (on_cpu, of_cpu), (elsewhere, of_others) = traced("cpu"), traced("cuda")
    assert elsewhere > on_cpu > 0  # 1×1 convolutions are matrix products on a CPU
    np.testing.assert_allclose(of_cpu, of_others, rtol=1e-4, atol=1e-4)
    assert traced(jax.default_backend())[0] == on_cpu  # nothing of it stays


def test_an_ensemble_is_not_exported_as_its_first_member(run) -> None:
    with pytest.raises(InputError, match="ensemble of 2 cannot be exported"):
        LoadedModel((run.single, run.single)).single  # noqa: B018


def test_ids_become_text_as_the_vocabulary_joins_them() -> None:
    words = ("<pad>", "<bos>", "<eos>", "<unk>", "a", "dog", " ")
    for vocabulary in (Vocabulary(words[:-1]), Vocabulary(words, Characters())):
        texts = export._texts(vocabulary)
        ids = [4, 5, 4, 2, 0, 0]
        assert "".join(texts[i] for i in ids).strip() == vocabulary.decode(ids)


def test_a_full_disk_leaves_what_was_there(run, tmp_path) -> None:
    path = tmp_path / "x.stablehlo"
    path.write_text("old")
    (tmp_path / "x.json").write_text("old too")
    unwritten = pytest.raises(InputError, match=r"x\.stablehlo: cannot be written")
    with files_up_to(20_000), unwritten:
        export.write_program(run.single, path, platforms=("cpu",))
    assert path.read_text() == "old"
    assert (tmp_path / "x.json").read_text() == "old too"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("before", [None, "old"])
def test_a_program_that_cannot_be_replaced_keeps_its_description(
    run, tmp_path, monkeypatch, before
) -> None:
    """As where the program is a mount point."""
    path, description = tmp_path / "x.stablehlo", tmp_path / "x.json"
    if before is not None:
        description.write_text(before)
    replace = os.replace

    def busy(part: Path, target: Path) -> None:
        if target == path:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(part))
        replace(part, target)

    monkeypatch.setattr(os, "replace", busy)
    # Any program will do.
    exported = jax.export.export(jax.jit(jnp.negative))(jnp.zeros(3))
    monkeypatch.setattr(export, "export_program", lambda *_, **__: exported)
    with pytest.raises(InputError, match=r"x\.stablehlo: cannot be written: Device or resource"):
        export.write_program(run.single, path)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == (
        {} if before is None else {"x.json": before}
    )


def test_a_decoder_without_attention_has_none_to_return(run, tmp_path) -> None:
    config = dataclasses.replace(
        run.config, decoder=dataclasses.replace(run.config.decoder, name="lstm")
    )
    with pytest.raises(InputError, match="decoder 'lstm' has no attention"):
        export.write_program(
            dataclasses.replace(run.single, config=config), tmp_path / "x.stablehlo", attention=True
        )


def test_pieces_that_are_bytes_are_refused(run, tmp_path):
    words = (*run.vocabulary.words[:4], "▁a", "<0xE5>")
    bytewise = dataclasses.replace(run.single, vocabulary=Vocabulary(words, Pieces(b"")))
    with pytest.raises(InputError, match=r"single bytes, such as '<0xE5>'.*\.safetensors"):
        export.write_program(bytewise, tmp_path / "captioner.stablehlo")
    assert not list(tmp_path.iterdir())
