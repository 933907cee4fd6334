"""Event files: the format, their content, and that nothing appears twice."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from event_reader import assert_shows_its_log, points, read_events, run_events, samples
from PIL import Image

from jaxcap.evaluation import read_metrics
from jaxcap.files.crc32c import crc32c, masked_crc32c
from jaxcap.training import event_files
from jaxcap.training.tensorboard import TensorBoard, captioned, markdown


def test_the_checksum_is_the_standards() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    # RFC 3720, appendix B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E
    # Masked, by hand: 0xE3069283 turned right by 15 bits is 0x2507C60D; plus 0xA282EAD8.
    assert masked_crc32c(b"123456789") == 0xC78AB0E5


def test_values_are_what_protobuf_reads(tmp_path: Path) -> None:
    values = [
        event_files.scalar("train/loss", 0.0),
        event_files.scalar("dev/größe", -1.5),
        event_files.image("x/1", b"\xff\xd8" * 200, width=320, height=3),
        event_files.text("x", "| é |"),
    ]
    record = event_files.event(values, step=300, wall_time=1.25)
    path = tmp_path / "events"
    path.write_bytes(event_files.header(1.0) + record.content)

    header, start, event = read_events(path)

    assert header.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (0, 1)
    assert (event.step, event.wall_time) == (300, 1.25)
    loss, size, image, text = event.summary.value
    assert loss.HasField("simple_value")
    assert (loss.tag, loss.simple_value) == ("train/loss", 0.0)
    assert (size.tag, size.simple_value) == ("dev/größe", -1.5)
    assert (image.image.width, image.image.height, image.image.colorspace) == (320, 3, 3)
    assert image.image.encoded_image_string == b"\xff\xd8" * 200
    assert (text.tensor.dtype, list(text.tensor.string_val)) == (7, ["| é |".encode()])
    assert text.metadata.plugin_data.plugin_name == "text"


def test_a_file_is_read_up_to_where_it_was_cut_or_damaged() -> None:
    records = [
        event_files.event(
            [event_files.scalar("a", float(n)), event_files.text("b", "")], step=n, wall_time=0.0
        )
        for n in range(3)
    ]
    content = event_files.header(0.0) + b"".join(each.content for each in records)
    assert list(event_files.records(content)) == records
    assert records[2].tags == ("a", "b")
    for cut in (1, 4, 20, len(records[2].content) - 1):
        assert list(event_files.records(content[:-cut])) == records[:2]
    damaged = bytearray(content)
    damaged[-len(records[2].content) - 6] ^= 1
    assert list(event_files.records(bytes(damaged))) == records[:1]
    assert list(event_files.records(b"no events at all")) == []


def test_a_run_shows_every_figure_and_the_captions_on_their_images(tiny_run: Path) -> None:
    assert_shows_its_log(tiny_run)
    times = [event.wall_time for event in run_events(tiny_run)]
    assert times == sorted(times)
    last = run_events(tiny_run)[-1]
    assert last.step == 30
    *pictures, text = last.summary.value
    assert text.tag == "dev captions"
    table = text.tensor.string_val[0].decode()
    assert table.count("\n") == 7
    for each in pictures:
        name = each.tag.removeprefix("dev captions/")
        assert f"| {markdown(name)} | " in table
        with Image.open(io.BytesIO(each.image.encoded_image_string)) as picture:
            assert picture.size == (each.image.width, each.image.height)
            assert picture.width == 320


def line(step: int, **figures: float) -> dict[str, Any]:
    return {"step": step, "elapsed_s": float(step)} | figures


def test_a_resumed_run_keeps_its_past_and_drops_a_lost_session(
    tiny_run: Path, tmp_path: Path
) -> None:
    """Resume from step 12 of `tiny_run`, with or without its evaluation."""
    past = [x for x in read_metrics(tiny_run / "metrics.jsonl") if x["step"] <= 12]
    for scored in (True, False):
        workdir = tmp_path / str(scored)
        directory = workdir / "tensorboard"
        directory.mkdir(parents=True)
        (former,) = (tiny_run / "tensorboard").iterdir()
        # The last bytes never came to the disk.
        (directory / former.name).write_bytes(former.read_bytes()[:-5])
        (directory / ".events.out.tfevents.1.part").write_text("half")
        lines = past if scored else past[:-1]
        said: list[str] = []
        board = TensorBoard(directory, lines, split="dev", report=said.append)
        board.write(line(13, loss=2.5))
        assert {step for _, step in samples(workdir)} == ({6, 12} if scored else {6})
        assert len(samples(workdir)) == (14 if scored else 7)
        steps = [step for tag, step, _ in points(workdir) if tag == "train/loss"]
        assert steps == [1, 4, 6, 8, 12, 13]
        assert (("dev/CIDEr-D", 12) in {point[:2] for point in points(workdir)}) is scored
        assert not said
        # Steps in order, as TensorBoard takes a step back for a restart.
        order = [event.step for event in run_events(workdir)]
        assert order == sorted(order)


def test_a_failure_to_write_is_reported_once(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("")
    board = TensorBoard(tmp_path / "file" / "board", [], split="dev", report=said.append)
    board.write(line(1, loss=1.0))
    assert len(said) == 1
    assert "cannot write there (Not a directory)" in said[0]

    board = TensorBoard(tmp_path / "board", [], split="dev", report=said.append)
    board.write(line(1, loss=1.0))

    (path,) = (tmp_path / "board").iterdir()
    path.unlink()
    path.mkdir()
    board.write(line(2, loss=1.0))
    board.write(line(3, loss=1.0))
    assert len(said) == 2
    assert "(Is a directory). TensorBoard will show nothing" in said[1]


def test_a_planted_link_is_not_emptied(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("dear")
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "events.out.tfevents.1.x").symlink_to(other)
    TensorBoard(tmp_path / "board", [], split="dev", report=print).write(line(1, loss=1.0))
    assert other.read_text() == "dear"


def test_a_linked_folder_keeps_its_files(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    TensorBoard(theirs, [], split="dev", report=print).write(line(1, loss=1.0))
    before = {path: path.read_bytes() for path in theirs.iterdir()}
    (tmp_path / "board").symlink_to(theirs)
    told: list[str] = []
    TensorBoard(tmp_path / "board", [], split="dev", report=told.append).write(line(1, loss=1.0))
    assert "board: a link, not a folder" in told[0]
    assert {path: path.read_bytes() for path in theirs.iterdir()} == before


def test_an_endless_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.x").touch()
    os.truncate(tmp_path / "events.out.tfevents.1.x", 2**40)
    told: list[str] = []
    TensorBoard(tmp_path, [], split="dev", report=told.append).write(line(1, loss=1.0))
    assert len(told) == 1
    assert "1,099,511,627,776 bytes; expected at most" in told[0]


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_shows_the_image_with_its_texts_below() -> None:
    red = (255, 0, 0)
    for width, height, shown in ((80, 80, (240, 240)), (640, 320, (320, 160)), (1, 900, (1, 240))):
        picture = captioned(png(width, height), "a dog", ["a hound"], name="x")
        assert picture.width == 320
        left = (320 - shown[0]) // 2
        assert picture.getpixel((left, shown[1] - 1)) == red
        assert picture.getpixel((left + shown[0] - 1, 0)) == red
        assert left == 0 or picture.getpixel((left - 1, 0)) == (255, 255, 255)
        below = picture.crop((0, shown[1], 320, picture.height))
        assert below.getextrema()[0][0] < 20  # black letters on white
        assert below.getextrema()[0][1] == 255
    # Two lines more for each long text; a word of a script without spaces is broken too.
    short, long = (
        captioned(png(9, 9), "a dog", [text], name="x").height for text in ("a", "x" * 70)
    )
    assert long - short >= 2 * 19
    assert captioned(png(9, 9), "", [], name="x").size == (320, 256)


def test_markdown_is_escaped() -> None:
    assert markdown("a dog's | <b>\n*x*  é 犬") == "a dog's &#124; &#60;b&#62; &#42;x&#42; é 犬"
