"""Captioners and weights on the Hugging Face Hub, played by a server of the test."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import jaxcap
from jaxcap.commands import export
from jaxcap.files import hub
from jaxcap.messages.errors import InputError
from jaxcap.storage import published
from jaxcap.storage.packaged import packaged

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """The part of the Hub's API that is needed for one repository, somebody/captioner.

    Attributes:
      files: its files.
      requests: method and path of each request, in order.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0].removeprefix("/")
        if not path.removeprefix("api/models/").startswith("somebody/captioner"):
            self._answer(404, X_Error_Code="RepoNotFound")
        elif "missing-revision" in path:
            self._answer(404, X_Error_Code="RevisionNotFound")
        elif "/resolve/" in path:
            data = self.server.files.get(path.partition("/resolve/")[2].partition("/")[2])
            if data is None:
                self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            else:
                etag = hashlib.sha256(data).hexdigest()
                self._answer(200, data, X_Repo_Commit=COMMIT, ETag=f'"{etag}"')
        elif "/tree/" in path:
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": COMMIT}
                    for name, data in self.server.files.items()
                ]
            )
        else:
            siblings = [{"rfilename": name} for name in self.server.files]
            self._json({"id": "somebody/captioner", "sha": COMMIT, "siblings": siblings})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.requests.append(f"POST {self.path}")
        if self.path == "/api/repos/create":
            address = f"http://127.0.0.1:{self.server.server_port}/somebody/captioner"
            self._json({"url": address, "id": "somebody/captioner"})
        elif "/preupload/" in self.path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            address = f"http://127.0.0.1:{self.server.server_port}/somebody/captioner"
            self._json({"commitUrl": f"{address}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._json({})

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("name", ["model.safetensors", "captioner.safetensors"])
def test_the_weights_of_a_repository_are_downloaded_once(server: Hub, name: str) -> None:
    server.files = {"README.md": b"a card", "pytorch_model.bin": b"code", name: b"weights"}
    for _ in range(2):
        path = hub.fetch("hf:somebody/captioner")
        assert (path.name, path.read_bytes()) == (name, b"weights")
    gets = [each for each in server.requests if each.startswith("GET") and "/resolve/" in each]
    assert len(gets) == 1
    assert not any("pytorch_model.bin" in each for each in server.requests)


def test_a_revision_is_asked_for(server: Hub) -> None:
    server.files = {"model.safetensors": b"weights"}
    hub.fetch("hf:somebody/captioner@v1.2")
    assert any("/resolve/v1.2/model.safetensors" in each for each in server.requests)


def test_what_was_downloaded_needs_no_network(server: Hub) -> None:
    server.files = {"model.safetensors": b"weights"}
    path = hub.fetch("hf:somebody/captioner")
    server.shutdown()
    server.server_close()
    assert hub.fetch("hf:somebody/captioner") == path


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("hf:nobody/nothing", "no such repository, or a private one: hf auth login gives access"),
        ("hf:somebody/captioner@missing-revision", "no such revision"),
        ("hf:captioner", r"expected hf:OWNER/NAME\[@REVISION\]"),
        ("hf:some/body/captioner", r"expected hf:OWNER/NAME\[@REVISION\]"),
        (
            "hf:somebody/captioner",
            r"expected one \.safetensors file or model\.safetensors, found 0",
        ),
    ],
)
def test_what_cannot_be_read_says_why(server: Hub, reference: str, message: str) -> None:
    server.files = {"pytorch_model.bin": b"code"}
    with pytest.raises(InputError, match=f"^{reference.split('@')[0]}.*{message}"):
        hub.fetch(reference)


def test_without_a_network(server: Hub) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=r"^hf:somebody/captioner: the Hub cannot be reached"):
        hub.fetch("hf:somebody/captioner")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'jaxcap\[hub\]'"):
        hub.fetch("hf:somebody/captioner")


def test_what_is_published_can_be_fetched(server: Hub, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"weights")
    address = hub.publish("hf:somebody/captioner", file, "# A card", message="by the test")
    assert address.endswith(f"/somebody/captioner/commit/{COMMIT}")
    assert server.files == {"model.safetensors": b"weights", "README.md": b"# A card"}
    assert hub.fetch("hf:somebody/captioner").read_bytes() == b"weights"


@pytest.mark.slow
def test_an_export_is_published_with_its_card(server: Hub, tmp_path: Path, capsys) -> None:
    file, console = tmp_path / "x.safetensors", Console(file=io.StringIO())
    to = {"dtype": "bfloat16", "to_hub": "hf:somebody/captioner"}
    assert export.run(export.ExportArguments(packaged(), file, **to), console) == 0
    assert capsys.readouterr().out.endswith(f"/somebody/captioner/commit/{COMMIT}\n")
    card = server.files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: jaxcap\npipeline_tag: image-to-text\n")
    for part in ("# captioner\n", "--model hf:somebody/captioner\n", "| `efficientnet_lite2`, "):
        assert part in card
    found = jaxcap.load("hf:somebody/captioner")
    assert found.note in card
    assert found.vocabulary == jaxcap.load(packaged()).vocabulary
    for path, message in (("x.stablehlo", "for .safetensors only"), ("y.safetensors", "hf:OWNER")):
        wrong = to | {"to_hub": "somebody/captioner" if path[0] == "y" else to["to_hub"]}
        with pytest.raises(InputError, match=message):
            export.run(export.ExportArguments(packaged(), tmp_path / path, **wrong), console)


def test_a_reference_is_a_published_captioner_and_no_folder() -> None:
    assert published.is_published("hf:somebody/captioner")
    assert not published.is_published("runs/captioner")
