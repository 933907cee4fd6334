"""The page of a server in a real browser: by file, drop, and paste; mouse, keyboard, and touch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Page
from http_client import Client, picture, running

CARDS = "[...document.querySelectorAll('#cards > li')]"
CAPTIONED = "document.querySelectorAll('#cards .caption').length"

# Contrast of each visible text with the page behind it (WCAG 2.2, 1.4.3), by its words.
CONTRAST = """(() => {
  const channels = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = (css) => channels(css).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.getClientRects().length || e.closest("script, noscript, :disabled")) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(e.textContent.slice(0, 40));
  }
  return low;
})()"""


@pytest.fixture(scope="module")
def client(model: Any, settings: Any) -> Iterator[Client]:
    with running(model, settings) as client:
        yield client


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{n} <b>.png" for n in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number, side=200))
    return paths


@pytest.fixture
def opened(page: Page, client: Client) -> Page:
    page.open(f"http://127.0.0.1:{client.port}/")
    return page


def test_pictures_get_captions_and_attention_from_this_server_alone(
    opened: Page, client: Client, pictures: list[Path]
) -> None:
    page = opened
    page.choose_files("files", pictures)
    page.wait(f"{CAPTIONED} === 3")
    shown = page[f"{CARDS}.map((li) => li.querySelector('.caption').textContent)"]
    answers = [client("POST", "/v1/caption", path.read_bytes()).json for path in pictures]
    assert shown == [answer["captions"][0]["caption"] for answer in reversed(answers)]
    assert page[f"{CARDS}[0].querySelector('.id').textContent"] == "2 <b>.png"
    assert page[f"{CARDS}[0].querySelectorAll('tbody tr').length"] == 2  # n best
    assert "confidence" in page[f"{CARDS}[0].querySelector('.numbers').textContent"]
    words = page[f"{CARDS}[0].querySelectorAll('.strip button').length"]
    assert words == len(shown[0].split())
    assert page["document.getElementById('status').textContent"].endswith(
        tuple(answer["captions"][0]["caption"] for answer in answers)
    )
    own = (f"http://127.0.0.1:{client.port}/", "blob:", "data:")
    assert page.requests
    assert all(address.startswith(own) for address in page.requests)
    assert page.complaints == []

    # Each word's attention is drawn, and enlarged by keyboard, mouse, and touch.
    overlay = f"{CARDS}[0].querySelector('.overlay')"
    drawn = (
        f"{CARDS}[0].querySelector('.strip canvas').getContext('2d')"
        ".getImageData(20, 20, 1, 1).data[3]"
    )
    assert page[drawn] == 255
    assert page[f"{overlay}.hidden"] is True
    page[f"{CARDS}[0].querySelector('.strip button').focus()"]
    assert page[f"{overlay}.hidden"] is False
    page.press("ArrowRight")
    assert page[
        f"[...{CARDS}[0].querySelectorAll('.strip button')].indexOf(document.activeElement)"
    ]
    page["document.activeElement.blur()"]
    assert page[f"{overlay}.hidden"] is True
    page[f"{CARDS}[0].querySelectorAll('.strip button')[1].scrollIntoView({{block: 'center'}})"]
    box = page[
        f"(({{x, y}}) => [x + 5, y + 5])"
        f"({CARDS}[0].querySelectorAll('.strip button')[1].getBoundingClientRect())"
    ]
    page("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    page.wait(f"{overlay}.hidden === false")
    page("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    page.wait(f"{overlay}.hidden === true")
    page("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": box[0], "y": box[1]}])
    page("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.wait(f"{overlay}.hidden === false")


def test_pictures_are_dropped_and_pasted(opened: Page, pictures: list[Path]) -> None:
    page = opened
    data = list(pictures[0].read_bytes())
    transfer = (
        f"const data = new DataTransfer(); "
        f"data.items.add(new File([new Uint8Array({data})], 'a.png', {{ type: 'image/png' }}));"
    )
    page[
        f"(() => {{ {transfer} document.body.dispatchEvent("
        "new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })); })()"
    ]
    page.wait(f"{CAPTIONED} === 1")
    page[
        f"(() => {{ {transfer} document.body.dispatchEvent("
        "new ClipboardEvent('paste', { clipboardData: data, bubbles: true })); })()"
    ]
    page.wait(f"{CAPTIONED} === 2")


def test_options_and_errors(opened: Page, pictures: list[Path], tmp_path: Path) -> None:
    page = opened
    (tmp_path / "text.png").write_bytes(b"no image")
    page.choose_files("files", [pictures[0], tmp_path / "text.png"])
    page.wait(f"{CAPTIONED} === 1 && !!document.querySelector('.failed')")
    assert "not an image" in page["document.querySelector('.failed').textContent"]
    page["document.querySelector('[name=n_best]').value = '1'"]
    page["document.getElementById('again').click()"]
    page.wait(f"{CARDS}[1].querySelector('.caption') && !{CARDS}[1].querySelector('details')")
    page["document.querySelector('[name=ban]').value = 'cat, zebra'"]
    page["document.getElementById('again').click()"]
    page.wait(f"!!{CARDS}[1].querySelector('.failed')")
    assert "no 'zebra'" in page[f"{CARDS}[1].querySelector('.failed').textContent"]
    assert any("n_best=1&ban=cat&ban=zebra" in address for address in page.requests)


def test_the_page_asks_for_the_token(
    page: Page, serve: Callable[..., Client], pictures: list[Path]
) -> None:
    client = serve(token="s3cret")
    page.open(f"http://127.0.0.1:{client.port}/")
    page.choose_files("files", pictures)
    page.wait("!document.getElementById('locked').hidden")
    assert page["document.activeElement.id"] == "token"
    page("Input.insertText", text="s3cret")
    page.press("Enter")
    page.wait(f"{CAPTIONED} === 3")
    assert page["document.getElementById('locked').hidden"]


@pytest.mark.parametrize("dark", [False, True])
def test_everybody_can_use_it(opened: Page, pictures: list[Path], *, dark: bool) -> None:
    """On a phone, in either colour scheme, with a keyboard, and with a screen reader."""
    page = opened
    page.window(360, 740, dark=dark)
    page.choose_files("files", pictures[:1])
    page.wait(f"{CAPTIONED} === 1")
    page["document.getElementById('options').open = true"]
    page.settle()
    assert page["document.documentElement.scrollWidth"] <= 360
    assert page[CONTRAST] == []
    fields = "[...document.querySelectorAll('input, select')]"
    assert page[f"{fields}.filter((e) => !e.labels.length).length"] == 0
    assert page["document.querySelectorAll('h1').length"] == 1
    assert page["document.getElementById('status').getAttribute('role')"] == "status"
    page["document.body.focus()"]
    reached = set()
    for _ in range(20):
        page.press("Tab")
        reached.add(page["document.activeElement.id || document.activeElement.name"])
    assert {"files", "method", "beam_size", "again"} <= reached
    assert json.dumps(page["getComputedStyle(document.body).backgroundColor"]) == (
        '"rgb(22, 21, 19)"' if dark else '"rgb(251, 250, 247)"'
    )


def test_the_page_of_the_addresses(page: Page, client: Client) -> None:
    page.open(f"http://127.0.0.1:{client.port}/docs")
    page.window(360, 740)
    assert "POST /v1/caption" in page["document.body.innerText"]
    assert page["document.documentElement.scrollWidth"] <= 360
    assert page[CONTRAST] == []
    assert page.complaints == []
    assert all("127.0.0.1" in address or address[:5] == "data:" for address in page.requests)
