"""Downloads from a server of the test: cut, redirected, wrong, absent."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits import files_up_to

from jaxcap.files.downloads import PublishedFile, fetch
from jaxcap.messages.errors import InputError

CONTENT = bytes(range(256)) * 4096  # a megabyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """A server of one file that keeps a log and misbehaves on request.

    Attributes:
      ranges: the header Range of each request for the file, in order.
      cuts: after how many bytes the next connections are cut.
      status: the status of every answer instead of 200.
      resumes: whether the server knows ranges.
      length, moved: the header Content-Length, and where a redirect leads, if not the right ones.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.cuts: list[int] = []
        self.status = 200
        self.resumes = True
        self.length = self.moved = ""

    def address(self, path: str = "/weights.pth") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/moved/weights.pth":
            self.send_response(302)
            self.send_header("Location", self.server.moved or self.server.address())
            self.end_headers()
            return
        given = self.headers["Range"]
        self.server.ranges.append(given)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        resumes = given is not None and self.server.resumes
        start = int(given.removeprefix("bytes=").removesuffix("-")) if resumes else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if resumes else 200)
        self.send_header("Content-Length", self.server.length or str(len(CONTENT) - start))
        self.end_headers()
        end = start + self.server.cuts.pop(0) if self.server.cuts else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def published(server: Server, path: str = "/weights.pth", digest: str = SHA256) -> PublishedFile:
    return PublishedFile(server.address(path), f"sha256:{digest}")


def test_a_file_is_downloaded_once_and_verified_each_time(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "not there yet"
    for _ in range(2):
        path = fetch(published(server), folder)
        assert path == folder / "weights.pth"
        assert path.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert not path.with_name("weights.pth.part").exists()
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=r"weights\.pth: damaged or another file.*Delete it"):
        fetch(published(server), folder)


@pytest.mark.parametrize("digest", [SHA256[:8], SHA256])
def test_the_beginning_of_a_digest_is_enough(server: Server, tmp_path: Path, digest: str) -> None:
    assert fetch(published(server, digest=digest), tmp_path).read_bytes() == CONTENT


def test_md5_as_keras_gives_it(server: Server, tmp_path: Path) -> None:
    digest = hashlib.md5(CONTENT).hexdigest()
    file = PublishedFile(server.address(), f"md5:{digest}")
    assert fetch(file, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("length", ["none", "9" * 400, "-1", "²"])
def test_an_odd_length_is_ignored(server: Server, tmp_path: Path, length: str) -> None:
    server.length = length
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


def test_a_body_without_end_is_not_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxcap.files.downloads._MAX_BYTES", len(CONTENT) - 1)
    with pytest.raises(InputError, match=r"the server sends more than 1,048,575 bytes"):
        fetch(published(server), tmp_path)
    assert len(server.ranges) == 1
    assert (tmp_path / "weights.pth.part").stat().st_size == 0


def test_a_planted_link_is_not_written_to(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"dear")
    (tmp_path / "weights.pth.part").symlink_to(other)
    with pytest.raises(InputError, match=r"weights\.pth: cannot be written"):
        fetch(published(server), tmp_path)
    assert other.read_bytes() == b"dear"


@pytest.mark.parametrize("to", ["file:///etc/passwd", "http://[", "http://127.0.0.1:x/a", "//"])
def test_a_redirect_to_no_web_address_fails(server: Server, tmp_path: Path, to: str) -> None:
    server.moved = to
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch(published(server, "/moved/weights.pth"), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_size] == []


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    assert fetch(published(server, "/moved/weights.pth"), tmp_path).read_bytes() == CONTENT


def test_a_cut_connection_is_continued(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 200_000, 0, 0]
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [
        None,
        "bytes=100000-",
        "bytes=300000-",
        "bytes=300000-",
        "bytes=300000-",
    ]


def test_a_later_process_continues(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch(published(server), tmp_path)
    server.cuts, server.ranges = [], []
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-"]


def test_a_server_without_ranges_sends_everything_again(server: Server, tmp_path: Path) -> None:
    server.cuts, server.resumes = [100_000], False
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


def test_a_process_that_ended_before_renaming(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


def test_what_has_another_digest_is_not_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(b"of an older file")
    with pytest.raises(InputError, match=r"does not have the digest sha256:00000000"):
        fetch(published(server, digest="00000000"), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_size] == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (503, 4)])
def test_a_refusal_says_what_to_do(
    server: Server, tmp_path: Path, status: int, requests: int
) -> None:
    server.status = status
    with pytest.raises(InputError) as error:
        fetch(published(server, digest=SHA256[:8]), tmp_path)
    assert len(server.ranges) == requests
    for part in (server.address(), str(status), f"SHA256 begins with {SHA256[:8]}"):
        assert part in str(error.value)
    assert str(error.value).endswith(f"put it at {tmp_path / 'weights.pth'}.")


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "*")
    with Server() as closed:
        file = published(closed)
    with pytest.raises(InputError, match=r"Connection refused.*put it at"):
        fetch(file, tmp_path)
    (tmp_path / "weights.pth").write_bytes(CONTENT)
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_a_full_disk_is_told_from_a_broken_connection(server: Server, tmp_path: Path) -> None:
    full = pytest.raises(InputError, match=r"weights\.pth: cannot be written: File too large")
    with files_up_to(20_000), full:
        fetch(published(server), tmp_path)
    assert server.ranges == [None]


def test_an_unwritable_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        fetch(published(server), tmp_path / "file" / "folder")
