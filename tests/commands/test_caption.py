"""`jaxcap caption`: which images, in which format, and what remains after a failure."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tyro
from PIL import Image
from rich.console import Console

from jaxcap.caption_files.output_formats import FORMATS
from jaxcap.caption_files.writing import read_entries
from jaxcap.captioning import loaded_model
from jaxcap.captioning.calibration import calibrate, to_arrays
from jaxcap.commands import caption
from jaxcap.messages.errors import InputError
from jaxcap.storage import packaged

pytestmark = pytest.mark.usefixtures("shared_programs")


every_format = pytest.mark.parametrize("name", FORMATS)
SUFFIX = {"text": ".txt", "jsonl": ".jsonl", "csv": ".csv", "coco": ".json"}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.mark.slow
def test_a_page_shows_any_images(command, tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    outcome = command("red.png", "bad.png", "red.png", "--output", "page.html")
    assert outcome.code == 1
    assert "1 image captioned: page.html" in outcome.err
    assert "skipped: bad.png" in outcome.err
    page = (tmp_path / "page.html").read_text()
    (rows,) = re.findall(r'id="rows">(.*?)</script>', page)
    good, bad = json.loads(rows)
    assert (good["id"], good["size"]) == ("red.png", [20, 10])
    assert good["attention"]
    assert good["captions"][0][0].split()
    assert (bad["captions"], "note" in bad) == ([], True)
    with pytest.raises(InputError, match=r"page cannot be joined.*--part"):
        command("red.png", "--output", "other.html", "--part", "1/2")
    assert command("red.png", "--output", "lines.html", "--format", "text").code == 0
    assert (tmp_path / "lines.html").read_text().startswith("red.png\t")


def test_doubtful_captions_are_left_out_and_counted(command, run, tmp_path):
    shades = [Image.new("RGB", (20, 20), (v, 255 - v, 90)) for v in range(0, 250, 50)]
    names = [f"{i}.png" for i in range(len(shades))]
    for name, shade in zip(names, shades, strict=True):
        shade.save(tmp_path / name)
    confidences = sorted(
        (result.captions[0].confidence, result.name) for result in run.caption(names)
    )
    least, *others = [name for _, name in confidences]
    threshold = (confidences[0][0] + confidences[1][0]) / 2
    outcome = command(*names, "--output", "c.jsonl", "--min-confidence", threshold)
    assert outcome.code == 0
    assert f"1 of 5 captions left out: confidence below {threshold:g}." in outcome.err
    assert "This model is not calibrated" in outcome.err
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert sorted(line["image"] for line in lines) == sorted(others)
    assert min(line["captions"][0]["confidence"] for line in lines) > threshold - 1e-4
    # Without a file, each image has its line.
    *_, last = sorted(
        map(json.loads, command(*names, "--json", "--min-confidence", threshold).out.splitlines()),
        key=lambda line: -len(line["captions"]),
    )
    assert (last["image"], last["captions"]) == (least, [])
    assert re.fullmatch(rf"{least}: confidence 0\.\d+ is below 0\.\d+", last["error"])
    again = command(*names, "--output", "c.jsonl", "--min-confidence", threshold)
    assert "4 images captioned, 4 of them before" in again.err
    assert "1 of 1 caption left out" in again.err
    with pytest.raises(InputError, match=r"--min-confidence is 2\.0; it must be from 0 to 1"):
        command(*names, "--min-confidence", 2)


def test_familiarity_and_confidence_of_a_calibrated_model(command, run, monkeypatch, tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    (red,) = run.caption(["red.png"])
    calibration, _ = calibrate(
        np.stack([red.features, 1 - red.features]), [red] * 20, np.arange(20.0), familiar=20
    )
    single = dataclasses.replace(run.single, calibration=to_arrays(calibration))
    calibrated = dataclasses.replace(run, members=(single,))
    monkeypatch.setattr(loaded_model, "load", lambda *paths, **options: calibrated)
    line = json.loads(command("red.png", "--json").out)
    (expected,) = calibrated.caption(["red.png"])
    assert expected.captions[0].calibrated is not None
    assert line["familiarity"] == round(expected.familiarity, 4)
    assert line["captions"][0]["confidence"] == round(expected.captions[0].calibrated, 4)
    assert command("red.png", "--output", "page.html").code == 0
    (rows,) = re.findall(r'id="rows">(.*?)</script>', (tmp_path / "page.html").read_text())
    scores = json.loads(rows)[0]["scores"]
    assert scores["familiarity"] == pytest.approx(expected.familiarity, abs=1e-2)
    assert scores["confidence"] == pytest.approx(expected.captions[0].calibrated, abs=1e-2)


@pytest.fixture(scope="module")
def run(tiny_run) -> loaded_model.LoadedModel:
    return loaded_model.load(tiny_run)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path, run) -> Callable[..., Outcome]:
    """Run the command in an empty directory, with a run that is loaded and compiled once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loaded_model, "load", lambda *paths, **options: run)

    def call(*arguments: object) -> Outcome:
        console = Console(file=io.StringIO(), width=10_000, markup=False, highlight=False)
        given = [*map(str, arguments), "--model", "RUN"]
        parsed = tyro.cli(caption.CaptionArguments, args=caption.paths_last(given))
        code = caption.run(parsed, console)
        return Outcome(code, capsys.readouterr().out, console.file.getvalue())  # type: ignore[attr-defined]

    return call


def pictures(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    """Write different images, which even a small model captions differently."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{n:03}.png" for n in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((40, 30)).save(path)
    return paths


# The command


@pytest.mark.slow
@every_format
def test_a_repeated_command_continues(command, tmp_path, run, name):
    paths = pictures(tmp_path / "in", 11)
    output = tmp_path / f"out{SUFFIX[name]}"
    assert command("in", "--output", output).code == 0
    whole = output.read_bytes()
    expected = {each.name: each.captions[0].text for each in run.caption(paths)}
    if name == "csv":
        rows = csv.DictReader(io.StringIO(whole.decode()))
        told = {str(tmp_path / row["image"]): row["caption"] for row in rows}
        assert told == expected
    output.unlink()
    for paths_given in (["in/000.png", "in/001.png"], ["in"], ["in"]):
        outcome = command(*paths_given, "--output", output)
        assert (outcome.code, outcome.out) == (0, "")
    assert "11 images captioned, 11 of them before" in outcome.err
    assert output.read_bytes() == whole


@pytest.mark.slow
def test_other_settings_need_a_restart(command, tmp_path):
    pictures(tmp_path / "in", 2)
    command("in", "--output", "out.jsonl", "--beam-size", 1)
    before = Path("out.jsonl").read_text()
    message = r"other settings \(then and now\):\n  search\.beam_size: 1, 3\n  words: False, True\n"
    with pytest.raises(InputError, match=message):
        command("in", "--output", "out.jsonl", "--beam-size", 3, "--words")
    assert Path("out.jsonl").read_text() == before
    outcome = command("in", "--output", "out.jsonl", "--beam-size", 3, "--words", "--restart")
    assert "2 images captioned: out.jsonl" in outcome.err
    lines = Path("out.jsonl").read_text().splitlines()
    assert all(len(json.loads(line)["captions"]) == 3 for line in lines)
    with pytest.raises(InputError, match="--restart replaces the captions in a file"):
        command("in", "--restart")


def test_an_image_that_is_given_twice_is_captioned_once(command, tmp_path):
    pictures(tmp_path / "in", 3)
    outcome = command("in/001.png", "in", "./in/001.png", "in/*.png")
    assert [line.split("\t")[0] for line in outcome.out.splitlines()] == [
        "in/001.png",
        "in/000.png",
        "in/002.png",
    ]


def test_two_images_with_one_coco_id_are_not_confused(command, tmp_path):
    for folder in ("a", "b"):
        (first,) = pictures(tmp_path / folder, 1)
        first.rename(first.with_name("000000000042.png"))
    outcome = command("a", "b", "--output", "out.json")
    assert outcome.code == 1
    assert (
        "skipped: b/000000000042.png: it has the name 42 in the file of captions, and so has a/"
        in outcome.err
    )
    assert [each["image_id"] for each in json.loads(Path("out.json").read_text())] == [42]


def test_failures_are_listed_and_retried(command, tmp_path):
    pictures(tmp_path / "in", 5)
    Path("in/002.png").write_text("text")
    Path("in/000a.jpg").write_bytes(b"")
    outcome = command("in", "--output", "out.jsonl")
    assert outcome.code == 1
    assert "4 images captioned: out.jsonl" in outcome.err
    assert "skipped: in/000a.jpg: the file is empty" in outcome.err
    assert "skipped: in/002.png: not an image" in outcome.err
    assert "2 of 6 images could not be captioned." in outcome.err
    pictures(tmp_path / "in", 5)
    outcome = command("in", "--output", "out.jsonl")
    assert outcome.code == 1
    assert "5 images captioned, 4 of them before" in outcome.err
    assert "1 of 2 images could not be captioned." in outcome.err
    names = [json.loads(line)["image"] for line in Path("out.jsonl").read_text().splitlines()]
    assert names == [f"in/{n:03}.png" for n in (0, 1, 3, 4, 2)]


def test_a_file_that_vanishes(command, tmp_path, monkeypatch, capsys):
    pictures(tmp_path / "in", 3)
    listed = io.TextIOWrapper(io.BytesIO(b"in/000.png\nin/gone.png\nin/002.png\n"))
    monkeypatch.setattr(sys, "stdin", listed)
    outcome = command("-")
    assert outcome.code == 1
    assert outcome.out.count("\n") == 2
    assert "skipped: in/gone.png: cannot read the file: No such file or directory" in outcome.err


def test_an_image_found_twice_belongs_to_one_part(command, tmp_path):
    pictures(tmp_path / "in" / "below", 9)
    counts = []
    for number in (1, 2, 3):
        command("in", "in/below", "--part", f"{number}/3", "--output", f"part-{number}.jsonl")
        counts.append(len(Path(f"part-{number}.jsonl").read_text().splitlines()))
    assert sum(counts) == 9


@pytest.mark.slow
@every_format
def test_parts_are_joined(command, tmp_path, name):
    pictures(tmp_path / "in", 9)
    suffix = SUFFIX[name]
    for number in (1, 2, 3):
        command("in", "--part", f"{number}/3", "--output", f"part-{number}{suffix}")
    outcome = command("part-*" + suffix, "--join", "--output", f"all{suffix}")
    assert outcome.code == 0
    assert f"9 images in 3 parts: all{suffix}" in outcome.err
    command("in", "--output", f"one{suffix}")
    format = FORMATS[name]()

    def entries(file: str) -> list[object]:
        return sorted(key for key, _ in read_entries(Path(file + suffix), format))

    assert entries("all") == entries("one")
    assert len(entries("all")) == 9
    before = Path(f"all{suffix}").read_bytes()
    command("part-*" + suffix, "--join", "--output", f"all{suffix}")
    assert Path(f"all{suffix}").read_bytes() == before
    with pytest.raises(InputError, match=f"part-1{suffix}: one of the parts to join"):
        command("part-*" + suffix, "--join", "--output", f"./part-1{suffix}", "--restart")
    assert len(entries("part-1") + entries("part-2") + entries("part-3")) == 9
    Path("part-2" + suffix).write_text("something else\n")
    with pytest.raises(InputError, match="part-2"):
        command("part-*" + suffix, "--join", "--output", f"other{suffix}")
    assert not Path(f"other{suffix}").exists()


def test_words_in_json_lines(command, tmp_path, run):
    (path,) = pictures(tmp_path / "in", 1)
    best = json.loads(command(path, "--json", "--words").out)["captions"][0]
    assert [each["word"] for each in best["words"]] == best["caption"].split()
    (expected,) = run.caption([path])
    for each, word in zip(best["words"], expected.captions[0].words, strict=True):
        assert each["probability"] == pytest.approx(word.probability, abs=1e-3)
        np.testing.assert_allclose(each["attention"], word.attention, atol=1e-3)
    log_prob = sum(np.log(each["probability"]) for each in best["words"])
    end = expected.captions[0].word_log_probs[len(best["words"]) :]
    assert log_prob + sum(end) == pytest.approx(best["log_prob"], abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beam-size", "0"], "beam size 0: give 1"),
        (["--require", "zebrafish"], "zebrafish"),
        (["--ban", "zebrafish"], "zebrafish"),
        (["--temperature", "0"], "temperature"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--part", "3/2"], "--part is '3/2'"),
        (["--output", "."], "--output .: this is a folder; give the name of a file"),
        (["--output", "captions.doc"], r"captions.doc: unknown format. Give --format text"),
        (["--output", "out.csv", "--words"], "--words needs --format jsonl"),
        (["--format", "csv", "--json"], "--json means --format jsonl, but --format is csv"),
        (["--join"], "--join needs --output"),
    ],
)
def test_mistakes(command, tmp_path, arguments, message):
    pictures(tmp_path / "in", 1)
    with pytest.raises(InputError, match=message):
        command("in", *arguments)
    assert not Path("out.csv").exists()


def test_the_model_in_the_package_is_named_once(monkeypatch, tmp_path, run, capsys):
    pictures(tmp_path / "in", 2)
    monkeypatch.setattr(packaged, "packaged", lambda: Path("box.safetensors"))
    asked: list[Path] = []

    def load(*paths: Path, **options: object) -> loaded_model.LoadedModel:
        asked.extend(paths)
        members = (dataclasses.replace(run.single, note="drawn scenes"),)
        return dataclasses.replace(run, members=members)

    monkeypatch.setattr(loaded_model, "load", load)
    console = Console(file=io.StringIO(), width=10_000, markup=False, highlight=False)
    assert caption.run(caption.CaptionArguments((tmp_path / "in",)), console) == 0
    assert asked == [Path("box.safetensors")]
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed == "Captioning with the model in the package (drawn scenes)\n"
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.slow
def test_search_options_are_respected(command, tmp_path, run):
    (path,) = pictures(tmp_path / "in", 1)

    def captions(*options: object) -> list[str]:
        found = json.loads(command(path, "--json", *options).out)["captions"]
        return [each["caption"] for each in found]

    best = captions()[0]
    word = best.split()[1]
    assert len(captions("--beam-size", 4, "--n-best", 3)) == 3
    assert len(captions("--method", "greedy")) == 1
    in_groups = captions("--method", "diverse", "--beam-size", 2, "--groups", 2, "--diversity", 9)
    assert in_groups[0].split()[0] != in_groups[1].split()[0]
    drawn = captions("--method", "sample", "--samples", 4, "--seed", 5)
    assert len(drawn) == 4
    assert drawn == captions("--method", "sample", "--samples", 4, "--seed", 5)
    assert all(word not in each.split() for each in captions("--ban", word))
    shortest, longest = captions("--min-length", 9)[0], captions("--max-length", 2)[0]
    assert len(shortest.split()) >= 9
    assert len(longest.split()) <= 2
    required = next(w for w in run.vocabulary.words[:3:-1] if w not in best.split())
    assert required in captions("--require", required)[0].split()


@pytest.mark.parametrize(
    "given",
    [
        ["a.jpg", "b.jpg", "--model", "R", "--json"],
        ["a.jpg", "--model", "R", "b.jpg", "--json"],
        ["a.jpg", "--model", "R", "--json", "b.jpg"],
        ["--json", "a.jpg", "--model=R", "b.jpg"],
        ["--model", "R", "--json", "--", "a.jpg", "b.jpg"],
    ],
)
def test_paths_may_stand_anywhere(given):
    parsed = tyro.cli(caption.CaptionArguments, args=caption.paths_last(given))
    expected = caption.CaptionArguments(
        (Path("a.jpg"), Path("b.jpg")), model=(Path("R"),), json=True
    )
    assert parsed == expected


def test_several_models_and_words():
    given = ["-", "--model", "A", "--ban", "a", "--model", "B", "--ban=-x", "--", "--odd.jpg"]
    parsed = tyro.cli(caption.CaptionArguments, args=caption.paths_last(given))
    assert parsed.paths == (Path("-"), Path("--odd.jpg"))
    assert (parsed.model, parsed.search.banned_words) == ((Path("A"), Path("B")), ("a", "-x"))


# In a separate process


MAIN = "import jaxcap.commands.cli; jaxcap.commands.cli.main()"


@pytest.fixture
def process(tmp_path, tiny_run) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    import jax

    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
        cache = str(jax.config.jax_compilation_cache_dir)
        process = subprocess.Popen(  # type: ignore[call-overload]
            [sys.executable, "-c", MAIN, "caption", *map(str, arguments), "--model", str(tiny_run)],
            **{"stderr": subprocess.PIPE, "text": True, "cwd": tmp_path} | options,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_NUM_CPU_DEVICES": "2"},
        )
        started.append(process)
        return process

    yield start
    for each in started:
        each.kill()
        each.wait()
        for stream in (each.stdin, each.stdout, each.stderr):
            if stream is not None:
                stream.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["csv", "coco"])
def test_a_killed_command_can_be_continued(process, command, tmp_path, name):
    pictures(tmp_path / "in", 24)
    output, whole = tmp_path / f"out{SUFFIX[name]}", tmp_path / f"whole{SUFFIX[name]}"
    assert command("in", "--output", whole, "--batch-size", 4).code == 0
    first = process("in", "--output", output, "--batch-size", 4)
    rng, deadline = random.Random(name), time.monotonic() + 120
    wanted = rng.randrange(1, 20) * whole.stat().st_size // 24
    while not (output.exists() and output.stat().st_size >= wanted):
        assert first.poll() is None or output.stat().st_size == whole.stat().st_size
        assert time.monotonic() < deadline
        time.sleep(rng.random() / 1000)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(list(read_entries(output, FORMATS[name]())))
    assert kept >= wanted // whole.stat().st_size
    outcome = command("in", "--output", output, "--batch-size", 4)
    assert outcome.code == 0
    assert f"24 images captioned, {kept} of them before" in outcome.err
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_list_that_arrives_slowly(process, tmp_path):
    """Captions of a full batch appear before the list on standard input ends."""
    paths = pictures(tmp_path / "in", 6)
    watching = process("-", "--batch-size", 2, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert watching.stdin is not None
    assert watching.stdout is not None
    for pair in (paths[:2], paths[2:4]):
        watching.stdin.write("".join(f"{path}\n" for path in pair))
        watching.stdin.flush()
        seen = [watching.stdout.readline().split("\t")[0] for _ in pair]
        assert seen == [str(path) for path in pair]
    watching.stdin.close()
    assert watching.wait() == 0


@pytest.mark.slow
def test_output_is_closed_while_waiting_for_a_list(process, tmp_path):
    paths = pictures(tmp_path / "in", 3)
    leaving = process("-", "--batch-size", 1, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for path in paths:
        leaving.stdin.write(f"{path}\n")
        leaving.stdin.flush()
        if path == paths[0]:
            assert leaving.stdout.readline().startswith(str(path))
            leaving.stdout.close()
    assert leaving.stderr.read() == ""
    assert leaving.wait() == 1


@pytest.mark.slow
def test_output_is_closed(process, tmp_path):
    pictures(tmp_path / "in", 40)
    leaving = process("in", "--json", "--batch-size", 4, stdout=subprocess.PIPE)
    assert leaving.stdout is not None
    assert leaving.stderr is not None
    assert json.loads(leaving.stdout.readline())["image"] == str(Path("in/000.png"))
    leaving.stdout.close()  # as `| head -1` does
    assert leaving.stderr.read() == ""
    assert leaving.wait() == 1
