"""Every command of docs/data.md runs and prints the output on the page.

How the page is read:

- bash runs each ```` ```bash ```` block in a folder elsewhere. The block exits with status 0,
  or with the status in a comment such as `# status 2`.
- The next ```` ```text ```` block is its output: standard output as on a terminal, then standard
  error. `…` matches any text within a line, or any number of lines if it is alone. `~` is the home
  folder.
- A ```` ```python ```` block is written to the file named in its first line.
- A block without a language is a layout: its files exist and contain the lines next to them.
- Three things differ from a reader's terminal: `jaxcap train` gets `TINY` appended, programs are
  compiled as in all tests and kept in pytest's cache, and commands are forks of one process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import shlex
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from forked_commands import serving
from PIL import Image

from jaxcap.commands.data import DataArguments
from jaxcap.commands.prepare import FileOptions, PrepareArguments, TableOptions, TfdsOptions
from jaxcap.datasets.prepare import formats

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
TINY = (
    "--encoder.name resnet_small --encoder.weights None --data.image-size 32 --train.epochs 1 "
    "--decoder.hidden-size 16 --decoder.embedding-size 8 --decoder.attention-size 8 "
    "--data.length-buckets 16 --search.beam-size 2 --search.max-length 8"
)


# ---- the page --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page on which it begins."""

    language: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        yield Block(found[1], found[2], page.count("\n", 0, found.start()) + 1)


def agrees(shown: str, printed: str) -> bool:
    """Return whether the printed output matches that on the page, where `…` is a wildcard."""
    lines = [re.escape(line.rstrip()).replace("…", ".*") + "\n" for line in shown.splitlines()]
    pattern = "".join("(?:.*\n)*" if line == ".*\n" else line for line in lines)
    said = "".join(line.rstrip() + "\n" for line in printed.splitlines())
    return re.fullmatch(pattern, said) is not None


def layout(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield the paths of each line of a layout (two for FIRST … LAST) with the text next to them.

    The text is a line of the content of the last path, or empty.
    """
    folders: list[str] = []
    current: list[str] = []
    for line in text.splitlines():
        name, _, content = re.sub(r"^( *\S+(?: … \S+)?) {2,}", "\\1\t", line).partition("\t")
        if line.startswith(" " * 10):
            content = line.strip()
        else:
            depth = (len(name) - len(name.lstrip())) // 2
            folders = folders[:depth]
            current = ["/".join([*folders, each]) for each in name.strip().split(" … ")]
            if name.endswith("/"):
                folders.append(name.strip().rstrip("/"))
        yield current, content.replace("<TAB>", "\t")


# ---- its files -------------------------------------------------------------------------------


def draw(path: Path, number: int, size: tuple[int, int] = (300, 240)) -> None:
    """Return an image of coloured fields, different for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(fields).resize(size, Image.Resampling.NEAREST).save(path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, ensure_ascii=False))


def own_folders(here: Path) -> None:
    rows = []
    for n in range(1, 41):
        draw(here / "holiday" / f"{n:02}.jpg", n)
        colour, place = ("blue", "red", "green")[n % 3], ("snow", "grass")[n % 2]
        rows.append(f'{n:02}.jpg,"A {colour} ball, on the {place}."')
        rows.append(f"{n:02}.jpg,Somebody left a {colour} ball outside.")
    write(here / "holiday" / "captions.csv", "image,caption", *rows)
    draw(here / "my-photo.jpg", 0)

    things = [("lamp" if n < 8 else "chair", "train" if n < 7 else "val") for n in range(1, 9)]
    for n, _ in enumerate(things, start=1):
        draw(here / "catalogue" / "pictures" / f"a{n}.jpg", 100 + n)
    write(
        here / "catalogue" / "table.tsv",
        "photo\tshort\tlong\tset",
        *(
            f"a{n}.jpg\tA {thing}.\tA {thing} with a green shade.\t{split}"
            for n, (thing, split) in enumerate(things, start=1)
        ),
    )

    for n in range(1, 7):
        draw(here / "birds" / f"{n}.png", 200 + n)
    entries = [
        {"image": f"{n}.png", "captions": ["A wren sings.", "A small brown bird."]}
        for n in range(1, 7)
    ]
    write(here / "birds" / "captions.jsonl", *map(json.dumps, entries))
    write(here / "lists" / "train.txt", "1.png", "2.png", "3.png", "4.png")
    write(here / "lists" / "dev.txt", "6.png")

    for n in range(1, 21):
        draw(here / "signs" / "images" / f"{n}.jpg", 300 + n)
    write(here / "captions.json", coco_json((f"{n}.jpg", n) for n in range(1, 21)))

    for n, (name, *captions) in enumerate(
        [
            ("train/cat", "A cat asleep on a chair.", "The cat sleeps."),
            ("train/dog", "A dog waits at the door."),
            ("val/hen", "A hen in the yard."),
        ]
    ):
        draw(here / "pets" / f"{name}.jpg", 400 + n)
        write(here / "pets" / f"{name}.txt", *captions)

    pasture = [
        ("train/goat", "A goat on a rock."),
        ("train/hen", "A hen in the yard."),
        ("validation/cow", "A cow in the shade."),
    ]
    for n, (name, caption) in enumerate(pasture):
        draw(path := here / "pasture" / f"{name}.jpg", 450 + n)
        entry = {"file_name": path.name, "text": caption}
        with (path.parent / "metadata.jsonl").open("a") as metadata:
            metadata.write(json.dumps(entry) + "\n")
    shards(here, here / "pasture")
    pandas = "A panda eats bamboo.", "A panda sits in the grass."
    write(here / "zoo.txt", *pandas, "", "A giraffe reaches for a leaf.")

    for n in range(1, 41):
        draw(here / "market" / f"{n:02}.jpg", 500 + n)
    damaged = here / "market" / "12.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    rows = [f"{n:02}.jpg,A stall with apples." for n in range(1, 42)]
    write(here / "market" / "captions.csv", "image,caption", *rows)
    for n in range(1, 13):
        draw(here / "tokyo" / f"{n}.jpg", 600 + n)
    rows = [f"{n}.jpg,赤い丸があります。,{'train' if n < 11 else 'val'}" for n in range(1, 13)]
    write(here / "tokyo" / "captions.csv", "image,caption,split", *rows)


def shards(here: Path, source: Path) -> None:
    """Write the images of an ImageFolder into tar and Parquet files."""
    (here / "shards").mkdir()
    for split, name in (("train", "train"), ("validation", "val")):
        images = sorted((source / split).glob("*.jpg"))
        with tarfile.open(here / "shards" / f"{name}-00000.tar", "w") as tar:
            for path in images:
                caption = f"A {path.stem} on a pasture.".encode()
                tar.add(path, path.name)
                info = tarfile.TarInfo(f"{path.stem}.txt")
                info.size = len(caption)
                tar.addfile(info, io.BytesIO(caption))
        file = here / "downloads" / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for path in images],
            "text": [f"A {path.stem} on a pasture." for path in images],
        }
        pq.write_table(pa.table(columns), file)


def coco_json(images: Any) -> str:
    known = list(images)
    value = {
        "images": [{"id": n, "file_name": name} for name, n in known],
        "annotations": [{"image_id": n, "caption": "A sign with an arrow."} for _, n in known],
    }
    return json.dumps(value).replace(', "annotations"', ',\n "annotations"')


def karpathy_json(names: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    return {
        "images": [
            {"filename": name, "split": split, "sentences": [{"raw": caption}]}
            for name, split, caption in names
        ]
    }


def releases(here: Path) -> None:
    folder = here / "flickr8k"
    splits = {"train": "1000268201_693b08cb0e.jpg", "dev": "2.jpg", "test": "3.jpg"}
    for n, (split, name) in enumerate(splits.items()):
        draw(folder / "Flicker8k_Dataset" / name, 700 + n)
        write(folder / f"Flickr_8k.{split}Images.txt", name)
    caption = "A child climbs up some stairs ."
    write(
        folder / "Flickr8k.token.txt",
        *(f"{name}#{k}\t{caption}" for name in splits.values() for k in range(5)),
    )

    folder = here / "flickr30k"
    names = ["1000092795.jpg", "2.jpg", "3.jpg"]
    for n, name in enumerate(names):
        draw(folder / "flickr30k-images" / name, 800 + n)
    caption = "Two friends stand in a yard ."
    write(
        folder / "results_20130124.token",
        *(f"{name}#{k}\t{caption}" for name in names for k in range(5)),
    )
    known = [(n, s, caption) for n, s in zip(names, ("train", "val", "test"), strict=True)]
    write_json(folder / "dataset_flickr30k.json", karpathy_json(known))

    for split, number in (("train", 9), ("val", 42)):
        name = f"COCO_{split}2014_{number:012}.jpg"
        draw(here / "coco" / f"{split}2014" / name, 900 + number, (640, 480))
        file = here / "coco" / "annotations" / f"captions_{split}2014.json"
        write(file, coco_json([(name, number)]))

    known = [("vase.jpg", "train", "A blue vase."), ("coin.jpg", "val", "A coin."),
             ("mask.jpg", "test", "A mask.")]  # fmt: skip
    for n, (name, _, _) in enumerate(known):
        draw(here / "museum" / "images" / name, 1000 + n)
    text = json.dumps(karpathy_json(known)).replace('"sentences"', '\n "sentences"')
    write(here / "museum" / "dataset_museum.json", text)


class CocoCaptions(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The features and splits of TFDS's own coco_captions, without its objects."""

    name = "coco_captions"
    VERSION = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2014")]  # noqa: RUF012 - as TFDS wants it
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in ("train", "val", "test")}

    def _generate_examples(self, split: str) -> Any:
        file = io.BytesIO()
        Image.new("RGB", (8, 6), (9 * len(split), 0, 0)).save(file, "JPEG")
        file.seek(0)
        captions = [{"text": "A red picture.", "id": 1}]
        yield 0, {"image": file, "image/filename": f"{split}.jpg", "captions": captions}


# ---- its terminal ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Terminal:
    """A home folder that contains a folder to work in."""

    home: Path
    programs: Path

    @property
    def here(self) -> Path:
        return self.home / "jaxcap"

    def set_up(self, command: Sequence[str]) -> None:
        """Create the folders, and `jaxcap` as `command`."""
        self.here.mkdir()
        commands = self.home / "bin"
        write(
            commands / "jaxcap",
            "#!/bin/sh",
            f'[ "$1" = train ] && set -- "$@" {TINY}',
            f'exec {shlex.join(command)} "$@"',
        )
        (commands / "jaxcap").chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that commands see."""
        return {k: v for k, v in os.environ.items() if not k.startswith(("JAX", "XLA"))} | {
            "HOME": str(self.home),
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TFDS_DATA_DIR": str(self.home / "tensorflow_datasets"),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "JAX_COMPILATION_CACHE_DIR": str(self.programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": os.environ["XLA_FLAGS"],
            "TERM": "dumb",
            "COLUMNS": "120",
            "LINES": "40",
        }

    def run(self, block: str) -> tuple[int, str]:
        """Return the exit status and the content of the screen."""
        ours, theirs = pty.openpty()
        screen = bytearray()

        def read() -> None:
            with contextlib.suppress(OSError):  # what a terminal says when it is closed
                while part := os.read(ours, 1 << 16):
                    screen.extend(part)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            ended = subprocess.run(
                ["bash", "-e", "-c", block],
                cwd=self.here,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=subprocess.PIPE,
                timeout=600,
            )
        finally:
            os.close(theirs)
            reader.join()
            os.close(ours)
        said = screen.decode().replace("\r\n", "\n") + ended.stderr.decode()
        return ended.returncode, said.replace(str(self.home), "~")


@pytest.fixture
def terminal(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Terminal]:
    assert pytestconfig.cache is not None
    terminal = Terminal(tmp_path, Path(pytestconfig.cache.mkdir("jax")))
    with serving(terminal.environment) as command:
        terminal.set_up(command)
        own_folders(terminal.here)
        releases(terminal.here)
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(io.StringIO()):
            data = tmp_path / "tensorflow_datasets"
            CocoCaptions(data_dir=data, file_format="array_record").download_and_prepare()
        yield terminal


# ---- tests -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_command_of_the_page(terminal: Terminal) -> None:
    said, at = "", 0
    for block in blocks(PAGE):
        where = f"docs/data.md, line {block.line}"
        if block.language == "bash":
            expected = re.search(r"# status (\d+)", block.text)
            status, said = terminal.run(block.text)
            at = block.line
            assert status == (int(expected[1]) if expected else 0), f"{where}:\n{said}"
        elif block.language == "text":
            assert at, where
            assert agrees(block.text, said), f"{where}: shown\n{block.text}\nprinted\n{said}"
            at = 0
        elif block.language == "python":
            name = block.text.splitlines()[0].removeprefix("# ")
            write(terminal.here / name, block.text)
        else:
            assert not block.language, where
            check_layout(block, terminal.here, where)
    assert not (terminal.home / "tensorflow_datasets" / "holiday").exists()
    assert {path.name for path in (terminal.here / "runs" / "holiday").iterdir()} >= {
        "config.json",
        "vocabulary.json",
        "report-test.html",
    }


def check_layout(block: Block, here: Path, where: str) -> None:
    for paths, content in layout(block.text):
        for path in paths:
            file = Path(str(here / path).replace(f"{here}/~", str(here.parent)))
            assert file.exists(), f"{where}: {path}"
            if content:
                lines = file.read_text(encoding="utf-8").splitlines()
                assert any(agrees(content, line.strip()) for line in lines), (
                    f"{where}: {path}: {content}"
                )


def test_the_rules_by_which_the_page_is_read() -> None:
    assert agrees("a … c\n", "a b c  \n")
    assert agrees("…\nc\n", "a\nb\nc\n")
    assert agrees("…\nc\n", "c\n")
    assert not agrees("a … c\n", "a b\nc\n")
    assert not agrees("train 36\n", "train 360\n")
    assert not agrees("a\n", "a\nb\n")
    text = "x/\n  1.jpg … 3.jpg\n  t.csv        a<TAB>b\n               c d\n  y/\n    z.txt\nw\n"
    assert list(layout(text)) == [
        (["x/"], ""),
        (["x/1.jpg", "x/3.jpg"], ""),
        (["x/t.csv"], "a\tb"),
        (["x/t.csv"], "c d"),
        (["x/y/"], ""),
        (["x/y/z.txt"], ""),
        (["w"], ""),
    ]


def test_the_page_shows_every_format_and_names_every_option() -> None:
    commands = "".join(block.text for block in blocks(PAGE) if block.language == "bash")
    for name in formats().keys() - {"shapes"}:
        assert f"jaxcap prepare {name} " in commands
    groups = {"files": FileOptions, "table": TableOptions, "tfds": TfdsOptions}
    every = [PrepareArguments, *groups.values()]
    names = {field.name for each in every for field in fields(each)} - {"format", *groups}
    names |= {"page", "config", "json", "images"} & {field.name for field in fields(DataArguments)}
    for name in names:
        assert re.search(rf"--(no-)?{name.replace('_', '-')}\b", PAGE), name
