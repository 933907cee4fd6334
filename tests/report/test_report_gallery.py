"""The gallery in a real browser: sorting, searching, overlays, and escaping."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Page
from PIL import Image

from jaxcap.report import OtherCaption, ReportCaption, ReportRow

TEXTS = ("a brown dog runs", "two doggies play ball", "a hotdog stand", "the dog (ball) rests")
REFERENCES = (["A Dog runs .", "it runs"], ["puppies play"], ["a dog at a stand"], ["it rests"])


def row(i: int, text: str = "a dog", **rest: Any) -> ReportRow:
    return ReportRow(f"image {i}", None, [ReportCaption(text, -float(i))], **rest)


def shown(page: Page, what: str = ".id") -> list[str]:
    """Return the text of a part of each card, in order."""
    return page[f"[...document.querySelectorAll('.cards > li {what}')].map(e => e.textContent)"]


def numbers(page: Page) -> list[int]:
    return [int(name.removeprefix("image ")) for name in shown(page)]


def choose(page: Page, **values: str) -> None:
    """Set a control and dispatch its event, as a user would."""
    for name, value in values.items():
        event = "input" if name == "q" else "change"
        page[
            f"(e => {{ e.value = {value!r}; e.dispatchEvent(new Event('{event}')); }})"
            f"(document.getElementById('{name}'))"
        ]
        time.sleep(0.4 if name == "q" else 0)  # typing is waited for


@pytest.fixture(scope="module")
def sorted_path(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    """Twenty rows with ties, a row without scores and one that is not a number."""
    from jaxcap.report import write_report

    rng = random.Random(0)
    scores = [{"BLEU-4": rng.choice([0.0, 10.0, 50.0]), "my <b>": rng.random()} for _ in range(20)]
    scores[3] = {}
    scores[5]["BLEU-4"] = float("nan")
    path = tmp_path_factory.mktemp("sorted") / "r.html"
    rows = [row(i, scores=each, verdict=i % 3 == 0) for i, each in enumerate(scores)]
    write_report(path, title="Run", rows=rows)
    return path, scores


@pytest.mark.parametrize("metric", ["BLEU-4", "my <b>"])
def test_best_and_worst_come_first(page: Page, sorted_path: Any, metric: str) -> None:
    path, scores = sorted_path
    known = [i for i in range(20) if scores[i].get(metric, np.nan) >= 0]
    unknown = [i for i in range(20) if i not in known]  # last, whichever way
    page.open(path)
    assert numbers(page) == list(range(20))
    choose(page, sort=metric)
    assert numbers(page) == sorted(known, key=lambda i: -scores[i][metric]) + unknown
    choose(page, order="worst")
    assert numbers(page) == sorted(known, key=lambda i: scores[i][metric]) + unknown


def test_two_models_are_compared_and_sorted_by_the_difference(
    page: Page, write: Callable[..., Path]
) -> None:
    differences = [0.0, 20.0, -30.0, None]
    rows = [
        row(
            i,
            scores={"CIDEr-D": 50.0},
            other=OtherCaption(
                "theirs", f"cat {i}", {} if each is None else {"CIDEr-D": 50.0 - each}
            ),
        )
        for i, each in enumerate(differences)
    ]
    page.open(write(rows=rows))
    choose(page, sort="difference in CIDEr-D")
    assert numbers(page) == [1, 0, 2, 3]
    choose(page, order="worst")
    assert numbers(page) == [2, 0, 1, 3]
    text = page["document.querySelector('.cards > li').innerText"]
    assert "theirs cat 2" in text
    assert "CIDEr-D 80.0" in text
    assert "difference CIDEr-D −30.0" in text.replace("\n", " ")
    assert page["document.querySelector('.picture')"] is None


def test_confidence_random_and_back(page: Page, sorted_path: Any) -> None:
    page.open(sorted_path[0], "sort=confidence&order=worst")
    assert numbers(page) == list(range(19, -1, -1))
    choose(page, sort="random")
    first = numbers(page)
    assert sorted(first) == list(range(20))
    assert first != list(range(20))
    view = page["location.hash"].removeprefix("#")
    page["document.getElementById('shuffle').click()"]
    assert numbers(page) != first
    page.open(sorted_path[0], view)  # the address of a view shows the same view
    assert numbers(page) == first
    choose(page, sort="original")
    assert numbers(page) == list(range(20))


def test_an_unknown_view_falls_back_to_the_default(page: Page, sorted_path: Any) -> None:
    page.open(sorted_path[0], "sort=SPICE&order=up&in=x&verdict=%00&words&nonsense=1&q=")
    assert numbers(page) == list(range(20))
    assert page.complaints == []


def test_verdicts_are_filtered(page: Page, sorted_path: Any) -> None:
    page.open(sorted_path[0], "verdict=right")
    assert numbers(page) == [0, 3, 6, 9, 12, 15, 18]
    choose(page, verdict="wrong")
    assert numbers(page) == [i for i in range(20) if i % 3]
    assert page["document.getElementById('found').textContent"] == "13 of 20 images"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from jaxcap.report import write_report

    path = tmp_path_factory.mktemp("searched") / "r.html"
    pairs = zip(TEXTS, REFERENCES, strict=True)
    rows = [row(i, text, references=refs) for i, (text, refs) in enumerate(pairs)]
    rows.append(row(4, "一只狗在跑", references=["собака бежит"]))
    write_report(path, title="Run", rows=rows)
    return path


@pytest.mark.parametrize(
    ("query", "where", "expected"),
    [
        ("dog", "all", [0, 1, 2, 3]),  # "doggies" begins so; "hotdog" has it in a reference only
        ("dog", "captions", [0, 1, 3]),
        ("DOG", "references", [0, 2]),
        ("dog", "invented", [1, 3]),
        ("dog", "missed", [2]),
        ("ball dog", "captions", [1, 3]),
        ('"dog runs"', "captions", [0]),
        ('"dog runs"', "all", [0]),
        ("(ball)", "all", [3]),
        (".*", "all", []),
        ("3", "all", [3]),  # the image's name
        ("狗", "all", [4]),  # no spaces between words
        ("Соб", "references", [4]),
        ("", "invented", [0, 1, 2, 3, 4]),
        ('" "', "captions", [0, 1, 2, 3, 4]),
        ('"', "captions", [0, 1, 2, 3, 4]),
        ("image-3", "all", []),
        ('image "', "all", [0, 1, 2, 3, 4]),
    ],
)
def test_search(page: Page, searched: Path, query: str, where: str, expected: list[int]) -> None:
    page.open(searched, "words=off")
    choose(page, **{"in": where, "q": query})
    assert numbers(page) == expected
    if expected == [0, 1, 3]:
        assert shown(page, ".caption mark") == ["dog", "dog", "dog"]
    if not expected:
        assert page["document.getElementById('found').textContent"] == "0 of 5 images"


HOSTILE = (
    "<script>window.hacked = 1; alert(1)</script>",
    "</script><script>window.hacked = 2; alert(2)</script>",
    "<!-- <script> </script> -->",
    '<img src=x onerror="window.hacked = 3"> & &lt;b&gt; "quotes" \'too\'',
    "\u202egnp.exe \u05e9\u05dc\u05d5\u05dd \u0643\u0644\u0628 \U0001f436\u200d\U0001f525 日本",
    "${title} $$ %s {0} \\u003c \\ `x`",
    "line\u2028separator",
)


def test_captions_are_never_executed(
    page: Page, write: Callable[..., Path], jpeg: Callable[..., bytes]
) -> None:
    rows = [
        ReportRow(
            text,
            jpeg(),
            [
                ReportCaption(text, -1.0, [-0.1] * 20, np.ones((20, 4), np.uint8)),
                ReportCaption(text),
            ],
            [text],
            {text: 1.0, "BLEU-4": 2.0, "x": 3.0},
        )
        for text in HOSTILE
    ]
    path = write(
        title=HOSTILE[1],
        rows=rows,
        facts={HOSTILE[1]: HOSTILE[1]},
        signature=HOSTILE[1],
        config={HOSTILE[1]: HOSTILE[1]},
        curves=[{"step": 1, f"dev/{HOSTILE[1]}": 1.0}],
    )
    page.open(path, "q=s&sort=" + "%3Cscript%3E")
    choose(page, q="")
    page["document.querySelectorAll('details').forEach(d => d.open = true)"]
    page.settle()
    assert shown(page, ".caption") == list(HOSTILE)
    assert shown(page, ".references li") == list(HOSTILE)
    assert shown(page) == list(HOSTILE)
    assert page["document.title"] == HOSTILE[1]
    assert shown(page, ".others td:first-child") == [t for t in HOSTILE for _ in range(2)]
    assert page["typeof window.hacked"] == "undefined"
    assert page.dialogs == []
    assert page.complaints == []
    assert [a for a in page.requests if not a.startswith("data:image/jpeg;")] == [path.as_uri()]


def test_every_character_can_be_searched(page: Page, write: Callable[..., Path]) -> None:
    characters = [chr(i) for i in range(33, 127) if chr(i) != '"'] + ["é", "\U0001f436", "…"]
    rows = [row(i, f"x {c}{c}") for i, c in enumerate(characters)]
    page.open(write(rows=rows), "in=captions&words=off")
    for i, c in enumerate(characters):
        if c.isalpha():  # each in both cases, and "x" everywhere
            continue
        page[f"location.hash = new URLSearchParams({{in: 'captions', q: {c + c!r}}}).toString()"]
        page.settle()
        assert numbers(page) == [i]
    assert page.complaints == []


def test_injected_markup_can_neither_run_nor_send_requests(
    page: Page, write: Callable[..., Path]
) -> None:
    page.open(write(rows=[row(0)]))
    page[
        """(() => {
        const script = document.createElement('script');
        script.textContent = 'window.hacked = 1';
        document.body.append(script);
        document.body.insertAdjacentHTML('beforeend', '<img src="http://127.0.0.1:9/a.gif" '
          + 'onerror="window.hacked = 2"><style>p { color: red }</style>'
          + '<link rel=stylesheet href="http://127.0.0.1:9/a.css">'
          + '<iframe src="http://127.0.0.1:9/"></iframe>');
        })()"""
    ]
    assert page["fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"] == "refused"
    page.settle()
    assert page["typeof window.hacked"] == "undefined"
    assert page["getComputedStyle(document.querySelector('p')).color"] != "rgb(255, 0, 0)"
    refused = [text for text in page.complaints if "Content Security Policy" in text]
    assert len(refused) >= 5


def test_only_cards_near_the_window_exist(page: Page, write: Callable[..., Path]) -> None:
    path = write(rows=[row(i, references=["one"] * 5) for i in range(3000)])
    page.open(path)
    assert numbers(page)[:3] == [0, 1, 2]
    assert len(shown(page)) <= 200
    page["scrollTo(0, document.documentElement.scrollHeight)"]
    deadline = time.monotonic() + 120
    while 2999 not in numbers(page) and time.monotonic() < deadline:
        page["scrollTo(0, document.documentElement.scrollHeight)"]
        page.settle()
    assert numbers(page)[-1] == 2999
    assert 0 not in numbers(page)
    assert len(shown(page)) <= 200
    place = page["document.querySelector('.cards > li:last-child').getAttribute('aria-posinset')"]
    assert int(place) % 24 == 0


def wait_for_pictures(page: Page) -> None:
    page["Promise.allSettled([...document.images].map(image => image.decode()))"]
    page.settle()


def test_pictures_embedded_linked_and_broken(
    page: Page, write: Callable[..., Path], jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "é #1.jpg").write_bytes(jpeg(90, 60))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    images = [jpeg(), tmp_path / "é #1.jpg", tmp_path / "broken.jpg", b"", None]
    rows = [ReportRow(str(i), image, [ReportCaption("a")]) for i, image in enumerate(images)]
    page.open(write(rows=rows, images="link"))
    wait_for_pictures(page)
    assert page["[...document.images].map(i => [i.naturalWidth, i.naturalHeight])"] == [
        [320, 160],
        [90, 60],
    ]
    assert shown(page, ".picture.none") == [
        "cannot read this image",
        "cannot read this image: the file is empty",
        "no image",
    ]


@pytest.fixture
def attended(page: Page, write: Callable[..., Path]) -> Page:
    """A white image: "everywhere" attends to all of it, "corner" to the top right of 7×7 cells."""
    weights = np.zeros((2, 49), np.float32)
    weights[0], weights[1, 6] = 1 / 49, 1.0
    caption = ReportCaption("everywhere corner", -1.5, [-0.5, -1.0, 0.0], weights)
    page.open(write(rows=[ReportRow("0", Image.new("RGB", (70, 70), "white"), [caption])]))
    wait_for_pictures(page)
    return page


def colour(page: Page, canvas: str, x: float, y: float) -> list[int]:
    """Return red, green, and blue at a point given as fractions of width and height."""
    pixel = f"c.getContext('2d').getImageData({x} * c.width, {y} * c.height, 1, 1).data"
    return page[f"(c => [...{pixel}].slice(0, 3))(document.querySelector({canvas!r}))"]


@pytest.mark.parametrize("dark", [False, True])
def test_overlays_are_orange_where_the_model_looked(attended: Page, dark: bool) -> None:
    attended.window(1280, 800, dark=dark)
    first, second = ".strip li:nth-child(1) canvas", ".strip li:nth-child(2) canvas"
    for place in ((0.05, 0.05), (0.5, 0.5), (0.95, 0.95)):
        # 0.4 of white, and 0.6 of orange (255, 140, 0)
        assert colour(attended, first, *place) == pytest.approx([255, 186, 102], abs=4)
    assert colour(attended, second, 0.95, 0.05) == pytest.approx([253, 188, 107], abs=12)
    for place in ((0.95, 0.95), (0.05, 0.95)):  # 0.65 of white
        assert colour(attended, second, *place) == pytest.approx([166] * 3, abs=3)
    assert shown(attended, ".strip .word") == ["everywhere", "corner"]
    assert shown(attended, ".strip .p") == ["61 %", "37 %"]  # exp(−0.5), exp(−1)
    assert shown(attended, ".numbers") == ["p 22 %"]  # exp(−1.5)


def test_arrow_keys_move_between_words_and_enlarge_them(attended: Page) -> None:
    overlay = "document.querySelector('.overlay')"
    assert attended[f"{overlay}.hidden"]
    attended["document.querySelector('.strip button').focus()"]
    for kind in ("keyDown", "keyUp"):
        attended("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight")
    assert attended["document.activeElement.textContent"] == "corner37 %"
    assert not attended[f"{overlay}.hidden"]

    def pixel(x: int, y: int) -> list[int]:
        return attended[f"[...{overlay}.getContext('2d').getImageData({x}, {y}, 1, 1).data]"]

    assert pixel(123, 4)[:1] == pytest.approx([255], abs=12)
    assert pixel(4, 123) == pytest.approx([0, 0, 0, 89], abs=3)  # 0.35 · 255
    attended["document.activeElement.blur()"]
    assert attended[f"{overlay}.hidden"]


def test_overlays_can_be_hidden(attended: Page) -> None:
    attended["document.getElementById('words').click()"]
    assert shown(attended, ".strip") == []
    assert attended["location.hash"] == "#words=off"


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_pictures_before_charts(
    page: Page, write: Callable[..., Path], jpeg: Callable[..., bytes], dark: bool
) -> None:
    path = write(
        rows=[ReportRow("x", jpeg(), [ReportCaption("dog")])],
        curves=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}],
    )
    for width, is_open in ((375, False), (1280, True)):
        page.window(width, 800, dark=dark)
        page.open(path)
        assert page["document.querySelector('.training').open"] is is_open


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_never_scrolls_sideways(
    page: Page, write: Callable[..., Path], jpeg: Callable[..., bytes], dark: bool
) -> None:
    page.window(360, 800, dark=dark)
    long = "Donaudampfschifffahrtsgesellschaftskapitän" * 4
    weights = np.ones((12, 49), np.uint8)
    captions = [ReportCaption(f"a {long} " + "dog " * 10, -3.0, [-1.0] * 13, weights)] * 5
    rows = [
        ReportRow(long, image, captions, [long] * 5, {f"metric {i}": 1.0 for i in range(9)}, True)
        for image in (jpeg(), jpeg(50, 900), b"", None)
    ]
    path = write(
        title=long,
        rows=rows,
        scores=dict.fromkeys(("BLEU-1", "BLEU-2", "CIDEr-D", "true and complete"), 1234.5),
        intervals={"BLEU-1": (1000.0, 1500.0)},
        signature="|".join(["key:value"] * 30),
        facts={"command": f"evaluate.py {long}", long: long},
        curves=[{"step": 1} | {f"dev/metric{i}": 1.0 for i in range(6)}],
        config={long: [long]},
    )
    page.open(path)
    page["document.querySelectorAll('details').forEach(d => d.open = true)"]
    wait_for_pictures(page)
    assert page["document.documentElement.scrollWidth"] == 360
    ink, paper = page[
        "(s => [s.color, s.backgroundColor].map(c => Number(c.match(/\\d+/)[0])))"
        "(getComputedStyle(document.body))"
    ]
    assert (ink > 200 > 60 > paper) if dark else (ink < 60 < 200 < paper)


def test_the_summary_needs_no_script(page: Page, write: Callable[..., Path]) -> None:
    path = write(rows=[row(0)], scores={"CIDEr-D": 52.2}, curves=[{"step": 1, "loss": 2.0}])
    page("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(path)
        text = page("Runtime.evaluate", expression="document.body.innerText")["result"]["value"]
    finally:
        page("Emulation.setScriptExecutionDisabled", value=False)
    assert "52.2" in text
    assert "The gallery needs JavaScript" in text
    assert "Search" not in text


def test_every_control_has_a_name(page: Page, sorted_path: Any) -> None:
    page.open(sorted_path[0])
    controls = page[
        "[...document.querySelectorAll('input, select')].map(e => e.labels[0]?.innerText ?? '')"
    ]
    assert len(controls) == 6
    assert all(label is not None for label in controls)
    labels = page["[...document.querySelectorAll('label span')].map(e => e.textContent)"]
    assert labels == ["Search", "In", "Sort by", "Order", "Verdict", "Word by word"]
