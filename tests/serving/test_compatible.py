"""Other servers' addresses, the description of all, and the pages as text."""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any

import pytest
from http_client import Client, form, picture

from jaxcap.config import SearchConfig
from jaxcap.config.options import options_of


def ollama(client: Client, **values: Any) -> Any:
    return client("POST", "/api/generate", json.dumps(values).encode())


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


@pytest.mark.slow
def test_ibms_form_gets_ibms_answer(client: Client, model: Any) -> None:
    body, kind = form(("a.png", picture(1)))
    answer = client("POST", "/model/predict", body, content_type=kind)
    assert answer.status == 200
    (result,) = model.caption([picture(1)], batch_size=1)
    assert answer.json["status"] == "ok"
    predictions = answer.json["predictions"]
    assert [each["index"] for each in predictions] == ["0", "1"]
    assert [each["caption"] for each in predictions] == [c.text for c in result.captions]
    assert predictions[0]["probability"] == pytest.approx(math.exp(result.captions[0].log_prob))


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (picture(), "image/png", 422, "multipart form"),
        (*form(("a.png", picture()), field="file"), 422, "0 files in the field 'image'"),
        (*form(("a.png", b"text")), 400, "not an image"),
    ],
)
def test_ibms_errors_have_ibms_form(
    client: Client, body: bytes, kind: str, status: int, message: str
) -> None:
    answer = client("POST", "/model/predict", body, content_type=kind)
    assert answer.status == status
    assert answer.json["status"] == "error"
    assert message in answer.json["message"]


def test_ollamas_request_gets_ollamas_answer(client: Client, model: Any) -> None:
    image = picture(2)
    (result,) = model.caption([image], batch_size=1)
    answer = ollama(client, model="any", prompt="Describe.", images=[encoded(image)], stream=False)
    assert answer.status == 200
    values = answer.json
    assert values["response"] == result.captions[0].text
    assert values["model"] == "any"
    assert values["done"] is True
    assert values["total_duration"] > 0
    odd = ollama(client, model="\ud800", images=[encoded(image)], stream=False)
    assert odd.json["model"] == "?"
    # The default is a stream of JSON lines, whose responses are joined.
    # Ollama ignores the ends of lines that encoders like to add.
    streamed = ollama(
        client, images=["data:image/png;base64," + base64.encodebytes(image).decode()]
    )
    lines = [json.loads(line) for line in streamed.body.splitlines()]
    assert "".join(line["response"] for line in lines) == result.captions[0].text
    assert [line["done"] for line in lines] == [False, True]
    assert lines[0]["model"] == "tiny"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"prompt": "hello"}', "images must be a list"),
        (b'{"images": []}', "images must be a list"),
        (b'{"images": [7]}', "image 1 is not base64"),
        (b'{"images": [["aGVsbG8="]]}', "image 1 is not base64"),
        (b'{"images": [""]}', "empty"),
        (b'{"images": ["http://169.254.169.254/latest"]}', "never fetched"),
        (b'{"images": ["aGVsbG8="]}', "not an image"),
        (b'{"images": ' + b"[" * 2000, "not JSON"),
        (b'{"images": [' + b'"",' * 20_000 + b'""]}', "more than 10,000 values"),
        (b'{"images": ["\xff"]}', "not JSON"),
    ],
)
def test_ollamas_bad_requests_have_a_reason(client: Client, body: bytes, message: str) -> None:
    answer = client("POST", "/api/generate", body)
    assert answer.status in (400, 422)
    assert message in answer.json["error"]


def test_the_description_has_every_address_and_option(client: Client) -> None:
    description = client("GET", "/openapi.json").json
    for path, operations in description["paths"].items():
        for method in operations:
            assert client(method.upper(), path).status not in (404, 405), path
    parameters = description["paths"]["/v1/caption"]["post"]["parameters"]
    names = {option.flag for option in options_of(SearchConfig).values()}
    assert {each["name"] for each in parameters} == names | {"words"}
    by_name = {each["name"]: each for each in parameters}
    assert by_name["method"]["schema"]["enum"] == ["beam", "diverse", "greedy", "sample"]
    assert by_name["beam_size"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000}
    assert by_name["require"]["schema"]["maxItems"] == 4
    assert all(each["description"] for each in parameters)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_name_no_other_address(client: Client, path: str) -> None:
    answer = client("GET", path)
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    text = answer.body.decode()
    assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', text)
    assert "$" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
