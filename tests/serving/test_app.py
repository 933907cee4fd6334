"""Answers of a real server with a tiny model: captions, limits, and bad requests."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from http_client import Client, form, picture
from PIL import Image

from jaxcap.caption_files.output_formats import JsonLines
from jaxcap.captioning.image_reading import ReadImage
from jaxcap.captioning.loaded_model import LoadedModel
from jaxcap.captioning.results import Captioned


def line(model: LoadedModel, image: bytes, *, words: bool = False, name: str = "image 1") -> Any:
    """Return what `jaxcap caption --format jsonl` writes of an image."""
    (result,) = model.caption([image], batch_size=1)
    return json.loads(JsonLines(words=words).entry(replace(result, name=name)))


class Slow(LoadedModel):
    """A model whose every batch takes a while."""

    seconds = 0.5

    def caption_batch(self, images: Sequence[ReadImage], **options: Any) -> list[Captioned]:
        time.sleep(self.seconds)
        return super().caption_batch(images, **options)


class Broken(LoadedModel):
    """A model that fails on every batch."""

    def caption_batch(self, images: Sequence[ReadImage], **options: Any) -> list[Captioned]:
        raise RuntimeError("out of memory, for example")


@pytest.fixture(scope="module")
def slow(model: Any) -> Slow:
    return Slow(model.members)


POST = b"POST /v1/caption HTTP/1.1\r\nHost: a\r\n"

# Captions


@pytest.mark.slow
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_answer_is_what_the_command_writes(client: Client, model: Any, format: str) -> None:
    image = picture(1, format)
    answer = client("POST", "/v1/caption", image)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == line(model, image)
    assert answer.json["captions"][0]["caption"]


@pytest.mark.slow
def test_words_have_probabilities_and_attention(client: Client, model: Any) -> None:
    image = picture(2)
    answer = client("POST", "/v1/caption?words=true", image).json
    assert answer == line(model, image, words=True)
    word = answer["captions"][0]["words"][0]
    assert 0 < word["probability"] <= 1
    assert len(word["attention"]) == len(word["attention"][0])


@pytest.mark.slow
def test_options_are_those_of_the_command(client: Client, model: Any) -> None:
    image = picture(3)
    best = client("POST", "/v1/caption?n_best=1", image).json
    assert best == line(model.with_search(n_best=1), image)
    assert len(best["captions"]) == 1
    banned = best["captions"][0]["caption"].split()[0]
    answer = client("POST", f"/v1/caption?ban={banned}&beam-size=3&n-best=2", image).json
    assert answer == line(model.with_search(banned_words=(banned,), beam_size=3, n_best=2), image)
    assert banned not in answer["captions"][0]["caption"].split()


@pytest.mark.slow
def test_the_number_of_programs_is_bounded(serve: Callable[..., Client]) -> None:
    client = serve(searches=2)
    image = picture(3)
    assert client("POST", "/v1/caption?method=greedy", image).status == 200
    refused = client("POST", "/v1/caption?method=sample", image)
    assert refused.status == 422
    assert "compiled 2 combinations" in refused.json["error"]
    # Known ones still work, and others that need no program of their own.
    assert client("POST", "/v1/caption?method=greedy&words=1", image).status == 200
    assert client("POST", "/v1/caption?n_best=2", image).status == 200


def test_a_form_has_a_line_for_each_image(client: Client, model: Any) -> None:
    images = [("one.png", picture(4)), ("two.png", b"no image"), ("drei\u00df.png", picture(5))]
    body, kind = form(*images)
    answer = client("POST", "/v1/caption", body, content_type=kind)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    first, second, third = map(json.loads, answer.body.decode().splitlines())
    assert first == line(model, picture(4), name="one.png")
    assert third == line(model, picture(5), name="drei\u00df.png")
    assert second["captions"] == []
    assert second["error"].startswith("two.png: not an image")


def test_clients_share_batches_and_get_their_own_captions(client: Client, model: Any) -> None:
    images = [picture(seed) for seed in range(8)]
    expected = [line(model, image) for image in images]
    before = client.metric("jaxcap_batch_size_sum"), client.metric("jaxcap_batch_size_count")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: client("POST", "/v1/caption", image).json, images))
    for answer, right in zip(answers, expected, strict=True):
        assert [c["caption"] for c in answer["captions"]] == [
            c["caption"] for c in right["captions"]
        ]
    assert client.metric("jaxcap_batch_size_sum") - before[0] == 8
    assert client.metric("jaxcap_batch_size_count") - before[1] < 8


# Bad requests


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("beam=5", "Did you mean 'beam_size'?"),
        ("beam_size=many", "expected a whole number"),
        ("beam_size=5&beam-size=6", "given twice"),
        ("beam_size=1000", "the vocabulary"),
        ("temperature=0.5", "sample"),
        ("method=gready", "Did you mean 'greedy'?"),
        ("ban=zebra", "no 'zebra'"),
        ("require=cat&require=dog&require=runs&require=sits&beam_size=5", "allows 64"),
        ("max_length=100", "this server allows 64"),
        ("words=maybe", "expected true or false"),
        ("length_penalty=nan", "it must be"),
        ("top_p=1e999&method=sample", "it must be"),
        ("samples=65&method=sample", "allows 64"),
        ("seed=" + "9" * 5000 + "&method=sample", "expected a whole number"),
    ],
)
def test_bad_options_are_named(client: Client, query: str, message: str) -> None:
    answer = client("POST", f"/v1/caption?{query}", picture())
    assert answer.status == 422
    assert message in answer.json["error"]


def bomb() -> bytes:
    """Return a PNG file of a few kilobytes with 400 million pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the file is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b'{"url": "http://169.254.169.254/"}', "not an image"),
        (picture()[:60], "decode"),
        (bomb(), "too many pixels to decode (20000×20000)"),
        (picture(format="JPEG", side=1200), "1200×1200 pixels; at most 1,000,000 are allowed"),
    ],
)
def test_images_that_cannot_be_read_have_a_reason(
    client: Client, body: bytes, message: str
) -> None:
    answer = client("POST", "/v1/caption", body, content_type="image/png")
    assert answer.status == 422
    assert answer.json["captions"] == []
    assert message in answer.json["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--xYzZY--",
        form(("a", b"1"))[0][:-9],
        b"--xYzZYz\r\n\r\nA\r\n--xYzZY--",
        b"--xYzZY\r\nno blank line\r\n--xYzZY--",
        form(*[("a", b"")] * 65)[0],
        b"--xYzZY\r\n" + b"a" * 9000 + b"\r\n\r\n\r\n--xYzZY--",
    ],
)
def test_damaged_forms_are_refused(client: Client, body: bytes) -> None:
    answer = client("POST", "/v1/caption", body, content_type=form()[1])
    assert answer.status == 422
    assert "form" in answer.json["error"]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'form-data; name="image"; filename="a\\"b; filename=c\\\\.png"', 'a"b; filename=c\\.png'),
        (b"form-data; name=image;\r\n\tFileName=\xc3\x9f.png", "\u00df.png"),
        (b'form-data; filename="a\0\x1b.png"', "a\ufffd\ufffd.png"),
        (b"form-data; name=image; filename*=utf-8''%C3%9F.png", "\u00df.png"),
        (b"form-data; name=image; filename*=idna''%ff.png", "\ufffd.png"),
        (b"form-data; filename*" + b"9" * 5000 + b"=a.png", "image 1"),
        (b'form-data; filename="' + b";" * 8000, "image 1"),
        (b"", "image 1"),
    ],
)
def test_the_names_of_files_cannot_confuse(client: Client, disposition: bytes, name: str) -> None:
    head = b"--xYzZY\r\nContent-Disposition: " + disposition + b"\r\n\r\n"
    body = head + picture() + b"\r\n--xYzZY--"
    answer = client("POST", "/v1/caption", body, content_type=form()[1])
    assert answer.status == 200
    assert answer.json["image"] == name


def test_bodies_that_are_too_large_are_refused(client: Client) -> None:
    answer = client("POST", "/v1/caption", bytes(300_001))
    assert answer.status == 413
    with socket.create_connection(("127.0.0.1", client.port)) as endless:
        endless.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(40):
                endless.sendall(b"2710\r\n" + bytes(10_000) + b"\r\n")
        assert endless.recv(100).startswith(b"HTTP/1.1 413 ")


def test_tiny_chunks_are_refused(client: Client) -> None:
    image = picture(side=180, format="BMP")
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    small = [image[start : start + 80] for start in range(0, len(image), 80)]
    tiny = [b"a"] * 1001
    assert len(small) > len(tiny)
    for chunks, end, status in ((small, b"0\r\n\r\n", b"200"), (tiny, b"", b"400")):
        body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        with socket.create_connection(("127.0.0.1", client.port), timeout=60) as sender:
            sender.sendall(head + body + end)
            assert sender.recv(100)[9:12] == status


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000,
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_malformed_heads_get_an_answer(client: Client, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as bad:
        bad.sendall(head)
        assert bad.recv(100)[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 413 ")
    assert client("GET", "/v2/health/live").status == 200


def test_unknown_addresses_and_methods_are_refused(client: Client) -> None:
    assert client("GET", "/v1/captions").status == 404
    assert client("GET", "/docs/").status == 404  # no redirect to the Host of the request
    answer = client("GET", "/v1/caption")
    assert answer.status == 405
    assert "/docs" in answer.json["error"]
    assert answer.headers["allow"] == "POST"


def test_pages_of_other_sites_may_not_use_the_server(serve: Callable[..., Client]) -> None:
    client = serve(origins=("https://friend.example",))
    own = f"http://127.0.0.1:{client.port}"
    image = picture()
    for origin, status in (
        (own, 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("https://friend.example", 200),
    ):
        answer = client("POST", "/v1/caption", image, origin=origin)
        assert answer.status == status, origin
        allowed = answer.headers.get("access-control-allow-origin")
        assert allowed == ("https://friend.example" if "friend" in origin else None)


def test_no_other_origin_is_allowed_unless_named(client: Client) -> None:
    answer = client(
        "OPTIONS",
        "/v1/caption",
        origin="https://friend.example",
        access_control_request_method="POST",
    )
    assert answer.status == 405
    assert "access-control-allow-origin" not in answer.headers


def test_a_token_is_required_where_one_is_set(serve: Callable[..., Client]) -> None:
    client = serve(token="s3cret")
    for headers in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "Basic s3cret"}):
        answer = client("POST", "/v1/caption", picture(), **headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client("GET", "/metrics").status == 401
    assert client("GET", "/v2/health/ready").status == 200
    for scheme in ("Bearer", "bearer"):
        answer = client("POST", "/v1/caption", picture(), authorization=f"{scheme} s3cret")
        assert answer.status == 200
    assert client("GET", "/", authorization="Bearer s3cret").status == 200
    metrics = client("GET", "/metrics", authorization="Bearer s3cret").body.decode()
    assert 'jaxcap_failures_total{kind="unauthorized"} 4.0' in metrics


# Load and time


def test_a_full_queue_is_answered_at_once(serve: Callable[..., Client], slow: Slow) -> None:
    client = serve(slow, queue=2, sizes=(1,))
    with ThreadPoolExecutor(2) as pool:
        accepted = [pool.submit(client, "POST", "/v1/caption", picture(n)) for n in (1, 2)]
        while client.metric("jaxcap_queue_length") < 2:
            time.sleep(0.01)
        began = time.monotonic()
        refused = client("POST", "/v1/caption", picture(3))
        assert time.monotonic() - began < Slow.seconds
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert [each.result().status for each in accepted] == [200, 200]
    assert client.metric("jaxcap_queue_length") == 0
    assert client.metric('jaxcap_failures_total{kind="queue_full"}') == 1


def test_a_form_larger_than_the_queue_is_refused(client: Client) -> None:
    body, kind = form(*[("a.png", picture())] * 9)
    assert client("POST", "/v1/caption", body, content_type=kind).status == 503


def test_a_request_has_a_deadline(serve: Callable[..., Client], slow: Slow) -> None:
    client = serve(slow, seconds=0.2)
    answer = client("POST", "/v1/caption", picture())
    assert answer.status == 504
    assert "0.2 seconds" in answer.json["error"]
    assert client.metric("jaxcap_queue_length") == 0


def test_slow_clients_time_out(serve: Callable[..., Client]) -> None:
    client = serve(seconds=0.3)
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as slow:
        slow.sendall(POST + b"Content-Length: 100\r\n\r\nabc")
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_vanished_clients_free_their_places(serve: Callable[..., Client], slow: Slow) -> None:
    client = serve(slow, sizes=(1,))
    image = picture()
    head = f"POST /v1/caption HTTP/1.1\r\nHost: a\r\nContent-Length: {len(image)}\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(8)]
    for connection in connections:
        connection.sendall(head.encode() + image)
    while client.metric("jaxcap_queue_length") < 8:
        time.sleep(0.01)
    for connection in connections:
        connection.close()
    while client.metric("jaxcap_queue_length"):
        time.sleep(0.01)
    began = time.monotonic()
    assert client("POST", "/v1/caption", image).status == 200
    assert time.monotonic() - began < 4 * Slow.seconds  # not nine batches
    assert client.metric('jaxcap_failures_total{kind="gone"}') >= 7


def test_uploads_share_a_bounded_memory(serve: Callable[..., Client]) -> None:
    client = serve(total_bytes=250_000, seconds=1.0)
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as slow:
        slow.sendall(POST + b"Content-Length: 290000\r\n\r\n")
        slow.sendall(bytes(240_000))
        time.sleep(0.3)
        answer = client("POST", "/v1/caption", picture(format="BMP", side=100))
        assert answer.status == 503
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
    assert client("POST", "/v1/caption", picture(format="BMP", side=100)).status == 200


def test_connections_without_requests_are_ended(
    serve: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxcap.serving import running

    client = serve(connections=20)
    monkeypatch.setattr(running, "HEAD_SECONDS", 0.5)
    idle = [socket.create_connection(("127.0.0.1", client.port), timeout=30) for _ in range(40)]
    for connection in idle[::2]:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HT")
    for connection in idle:
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(10) == b""
        connection.close()


def test_connections_without_requests_make_room(serve: Callable[..., Client]) -> None:
    client = serve(connections=2)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            idle = socket.create_connection(("127.0.0.1", client.port), timeout=30)
            stack.enter_context(idle)
        assert client("GET", "/v2/health/live").status == 200
        assert client("POST", "/v1/caption", picture()).status == 200


def test_slow_clients_that_send_too_much_learn_why(
    serve: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxcap.serving import running

    client = serve()
    monkeypatch.setattr(running, "HEAD_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as slow:
        slow.sendall(POST + b"Content-Length: 400000\r\n\r\n")
        for _ in range(4):
            slow.sendall(bytes(100_000))
            time.sleep(0.3)
        assert slow.recv(100).startswith(b"HTTP/1.1 413 ")


def test_answers_that_nobody_reads_are_dropped(
    serve: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxcap.serving import running

    client = serve(connections=1, seconds=1.0)
    monkeypatch.setattr(running, "HEAD_SECONDS", 0.5)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", client.port))
        deaf.settimeout(1)
        with contextlib.suppress(OSError):
            deaf.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000)
        assert deaf.recv(1)
        refused = client("GET", "/v2/health/live")
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert "too many connections" in refused.json["error"]
        until = time.monotonic() + 30
        while client("GET", "/v2/health/live").status == 503:
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.mark.parametrize("address", [b"POST /nothing", b"GET /v1/caption"])
def test_damage_after_the_answer_ends_the_connection(
    client: Client, address: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head = address + b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as bad:
        bad.sendall(head)
        answer = bad.recv(65536)
        bad.sendall(b"no length\r\n")
        with contextlib.suppress(ConnectionResetError):
            while received := bad.recv(65536):
                answer += received
    assert answer.count(b"HTTP/1.1 ") == 1
    assert client("GET", "/v2/health/live").status == 200
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_failing_batch_is_a_message(
    serve: Callable[..., Client], model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve(model)
    broken = Broken(model.members)
    client.service.searches.own.model = broken
    answer = client("POST", "/v1/caption", picture())
    assert answer.status == 500
    assert "memory" not in answer.body.decode()
    assert "out of memory, for example" in caplog.text
    client.service.searches.own.model = model
    assert client("POST", "/v1/caption", picture()).status == 200


# The life of a server


def test_a_server_is_ready_once_its_programs_are_compiled(serve: Callable[..., Client]) -> None:
    client = serve(compiled=False)
    assert client("GET", "/v2/health/live").json == {"live": True}
    assert client("GET", "/v2/health/ready").status == 503
    refused = client("POST", "/v1/caption", picture())
    assert refused.status == 503
    assert "retry-after" in refused.headers
    client.service.searches.compile_own().result()
    assert client("GET", "/v2/health/ready").json == {"ready": True}
    assert client("POST", "/v1/caption", picture()).status == 200


def test_stopping_answers_what_was_accepted(serve: Callable[..., Client], slow: Slow) -> None:
    client = serve(slow, sizes=(1,), queue=16)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(client, "POST", "/v1/caption", picture(n)) for n in range(6)]
        while client.metric("jaxcap_queue_length") < 6:
            time.sleep(0.01)
        stopping = threading.Thread(target=client.stop)
        stopping.start()
        assert [each.result().status for each in answers] == [200] * 6
        assert answers[-1].result().headers["connection"] == "close"
        stopping.join()
    assert client.service.answered == client.service.accepted == 6
    with pytest.raises(OSError, match="refused"):
        client("GET", "/v2/health/live")


def test_metrics_count_requests_and_failures(client: Client) -> None:
    ok = 'jaxcap_requests_total{path="/v1/caption",status="200"}'
    bad = 'jaxcap_failures_total{kind="unreadable"}'
    before = client.metric(ok), client.metric(bad), client.metric("jaxcap_request_seconds_count")
    client("POST", "/v1/caption", picture())
    client("POST", "/v1/caption", b"no image")
    client("GET", "/any/other/address")
    after = client.metric(ok), client.metric(bad), client.metric("jaxcap_request_seconds_count")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]
    assert "/any/other" not in client("GET", "/metrics").body.decode()


def test_animations_and_rotations_are_read_as_by_the_command(client: Client, model: Any) -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    answer = client("POST", "/v1/caption", file.getvalue())
    assert answer.json == line(model, file.getvalue())
