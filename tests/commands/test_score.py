"""`jaxcap score` from a user's side: files in, scores and their signature out."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from jaxcap.commands import score
from jaxcap.commands.score import ScoreArguments
from jaxcap.datasets.prepare import load_source
from jaxcap.messages.errors import InputError
from jaxcap.metrics import evaluate_captions

REFERENCES = {
    "a.jpg": ["A dog runs over the grass.", "A brown dog is running.", "The dog runs fast."],
    "b.jpg": ["Two men talk.", "Two men are talking in the street.", "Men on a street."],
    "c.jpg": ["A child in a red shirt jumps.", "A jumping child.", "The child jumps high up."],
    "d.jpg": ["A boat on the water.", "A small boat sails.", "A sailing boat on the sea."],
}
CAPTIONS = {
    "a.jpg": "a dog runs over the grass",
    "b.jpg": "two men are talking",
    "c.jpg": "a man in a red shirt",
    "d.jpg": "a dog on the water",
}


@dataclasses.dataclass
class Scoring:
    """Files to score in a separate folder, and a way to run the command."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def write(self, name: str, content: object) -> Path:
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return path

    def run(self, **options: Any) -> tuple[str, str]:
        """Return standard output and the messages."""
        options.setdefault("predictions", self.folder / "pred.json")
        options.setdefault("references", self.folder / "refs.json")
        messages = io.StringIO()
        console = Console(file=messages, markup=False, highlight=False, width=500)
        assert score.run(ScoreArguments(**options), console) == 0
        return self.capsys.readouterr().out, messages.getvalue()

    def lines(self, **options: Any) -> dict[tuple[str, ...], list[str]]:
        """Return the lines by kind and name."""
        rows = [line.split("\t") for line in self.run(**options)[0].splitlines()]
        keys = {"baseline": 3, "diversity": 3, "signature": 1}
        return {tuple(r[: keys.get(r[0], 2)]): r[keys.get(r[0], 2) :] for r in rows}


@pytest.fixture
def scoring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Scoring:
    monkeypatch.chdir(tmp_path)
    found = Scoring(tmp_path, capsys)
    found.write("pred.json", [{"image_id": k, "caption": v} for k, v in CAPTIONS.items()])
    found.write("refs.json", REFERENCES)
    return found


def test_tab_separated_lines_hold_the_scores(scoring: Scoring) -> None:
    found = scoring.lines()
    for name, value in evaluate_captions(CAPTIONS, REFERENCES).corpus.items():
        assert float(found["score", name][0]) == pytest.approx(value, abs=5e-5)
    assert re.fullmatch(
        r"BLEU\|ROUGE-L\|CIDEr-D\|jaxcap:\d\S*\|tok:ptb3\.4\.1\|case:lc\|punct:no"
        r"\|images:4\|refs:3\|df:references\(4\)\|text:[0-9a-f]{8}",
        found["signature",][0],
    )
    assert found["unavailable", "METEOR"] == ["with --java"]
    assert float(found["diversity", "these captions", "length"][0]) == pytest.approx(21 / 4)


def test_the_same_captions_score_the_same_in_every_format(scoring: Scoring) -> None:
    expected = scoring.run()[0]
    jsonl = "\n".join(
        json.dumps({"image": f"/photos/{k}", "captions": [{"caption": v, "log_prob": -1.0}]})
        for k, v in CAPTIONS.items()
    )
    table = "file_name,caption\n" + "".join(f"{k},{v}\n" for k, v in CAPTIONS.items())
    tokens = "".join(
        f"{k}#{n}\t{v}\n" for k, each in REFERENCES.items() for n, v in enumerate(each)
    )
    coco = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(REFERENCES)],
        "annotations": [
            {"image_id": n, "caption": text}
            for n, each in enumerate(REFERENCES.values())
            for text in each
        ],
    }
    numbered = [{"image_id": n, "caption": text} for n, text in enumerate(CAPTIONS.values())]
    refs = scoring.write("token.txt", tokens), scoring.write("coco.json", coco)
    for predictions, references in (
        (scoring.write("p.jsonl", jsonl), refs[0]),
        (scoring.write("p.csv", table), refs[1]),
        (scoring.write("p.json", CAPTIONS), refs[0]),
        (scoring.write("n.json", numbered), refs[1]),
    ):
        assert scoring.run(predictions=predictions, references=references)[0] == expected


def test_json_is_one_object_with_all_requested_parts(scoring: Scoring) -> None:
    other = CAPTIONS | {"a.jpg": "a cat", "b.jpg": "a street"}
    scoring.write("other.json", other)
    train = scoring.write("train.json", {"x.jpg": ["A dog on the water.", "A cat sleeps."]})
    out, _ = scoring.run(
        against=scoring.folder / "other.json", resamples=200, baselines=True, train=train, json=True
    )
    found = json.loads(out)
    scores, against = evaluate_captions(CAPTIONS, REFERENCES), evaluate_captions(other, REFERENCES)
    assert found["scores"] == pytest.approx(scores.corpus)
    assert found["against"] == pytest.approx(against.corpus)
    compared = found["comparison"]["CIDEr-D"]
    assert compared["difference"] == pytest.approx(
        scores.corpus["CIDEr-D"] - against.corpus["CIDEr-D"]
    )
    assert (compared["wins"], compared["ties"], compared["losses"]) == (2, 2, 0)
    interval = found["intervals"]["BLEU-1"]
    assert interval["low"] < scores.corpus["BLEU-1"] < interval["high"]
    assert found["diversity"]["these captions"]["novel"] == 3 / 4
    assert set(found["baselines"]) == {
        "people, against 2",
        "these captions, against 2",
        "best constant for CIDEr-D",
        "best constant for BLEU-4",
    }
    best = found["baselines"]["best constant for BLEU-4"]["BLEU-4"]
    constant = dict.fromkeys(REFERENCES, found["constants"]["BLEU-4"])
    assert best == pytest.approx(evaluate_captions(constant, REFERENCES).corpus["BLEU-4"])
    assert found["protocol"]["resamples"] == 200
    assert found["matched"] == "image_id = image, exactly"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_scores_of_every_image_are_written(scoring: Scoring, suffix: str) -> None:
    scoring.write("other.json", CAPTIONS | {"a.jpg": 'a "cat", asleep'})
    path = scoring.folder / f"each.{suffix}"
    _, messages = scoring.run(per_image=path, against=scoring.folder / "other.json")
    text = path.read_text("utf-8")
    rows: list[dict[str, Any]]
    if suffix == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
    else:
        rows = [json.loads(line) for line in text.splitlines()]
    assert [row["image"] for row in rows] == list(CAPTIONS)
    expected = evaluate_captions(CAPTIONS, REFERENCES).per_image
    for row in rows:
        assert float(row["CIDEr-D"]) == pytest.approx(expected[row["image"]]["CIDEr-D"], abs=1e-4)
    assert rows[0]["other caption"] == 'a "cat", asleep'
    assert float(rows[0]["other BLEU-4"]) < float(rows[0]["BLEU-4"])
    assert f"wrote {path}" in messages


def test_a_list_restricts_the_references(scoring: Scoring) -> None:
    names = scoring.write("dev.txt", "d.jpg\nb.jpg\n")
    scoring.write("pred.json", {name: CAPTIONS[name] for name in ("b.jpg", "d.jpg")})
    with pytest.raises(InputError, match="no caption for 2 of the 4 images"):
        scoring.run()
    found = scoring.lines(image_list=names)
    assert "|images:2|" in found["signature",][0]
    part = scoring.lines(allow_missing=True)
    assert "|images:2of4|" in part["signature",][0]
    assert part["score", "CIDEr-D"] == found["score", "CIDEr-D"]


def test_a_split_of_karpathys_file_is_named_in_the_signature(scoring: Scoring) -> None:
    images = [
        {
            "filename": name,
            "cocoid": 100 + n,
            "imgid": n,
            "split": "test" if n < 2 else "train",
            "sentences": [{"raw": text} for text in each],
        }
        for n, (name, each) in enumerate(REFERENCES.items())
    ]
    refs = scoring.write("dataset_x.json", {"images": images})
    numbers = [{"image_id": 100 + n, "caption": list(CAPTIONS.values())[n]} for n in range(2)]
    pred = scoring.write("pred.json", numbers)
    with pytest.raises(InputError, match=r"which split\? .* test \(2 images\), train \(2"):
        scoring.run(references=refs)
    found = scoring.lines(references=refs, split="test")
    assert "|split:test|images:2|" in found["signature",][0]
    with pytest.raises(InputError, match="Swap them"):  # before a split is asked for
        scoring.run(predictions=refs, references=pred)


def test_warnings_are_printed_and_in_the_json(scoring: Scoring) -> None:
    scoring.write("pred.json", {k: f"{v} <end>" for k, v in CAPTIONS.items()})
    out, messages = scoring.run(json=True)
    assert "warning: " in messages
    assert "4 of 4 (100.0 %) captions hold start, end or unknown tokens" in messages
    assert len(json.loads(out)["warnings"]) == 1


def test_letters_that_the_tokenizer_drops_cause_a_warning(scoring: Scoring) -> None:
    scoring.write("pred.json", {"a.jpg": "ಹುಲಿ", "b.jpg": "a dog"})  # tiger
    scoring.write("refs.json", {"a.jpg": ["ಹಾಲು", "ಹಾಲು"], "b.jpg": ["a dog", "a dog"]})  # milk
    _, messages = scoring.run()
    assert "warning: 3 of 6 (50.0 %) captions and references lose letters or marks" in messages
    assert "--units characters" in messages
    assert "lose letters" not in scoring.run(units="characters")[1]


def test_names_of_windows_and_of_another_machine_are_matched(scoring: Scoring) -> None:
    expected = scoring.run()[0]
    for form in ("photos\\{}", "./{}", "C:\\me\\x\\photos\\{}"):
        scoring.write("pred.json", {form.format(k): v for k, v in CAPTIONS.items()})
        assert scoring.run()[0] == expected


def test_a_report_shows_the_images(scoring: Scoring) -> None:
    photos = scoring.folder / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (8, 8), (200, 30, 30)).save(photos / name)
    _, messages = scoring.run(images=photos, report=scoring.folder / "out.html", bootstrap=True)
    page = (scoring.folder / "out.html").read_text("utf-8")
    assert "a dog runs over the grass" in page
    assert "tok:ptb3.4.1" in page
    assert f"no image file for 1 of 4 images in {photos}; the first is d.jpg" in messages
    assert "by the rule" not in messages


def test_image_files_in_subfolders_are_found_by_a_rule_that_is_named(scoring: Scoring) -> None:
    photos = scoring.folder / "photos"
    for name in ("x/A.JPG", "x/b.jpg", "y/c.jpg", "y/b.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200, 30, 30)).save(photos / name)
    _, messages = scoring.run(images=photos, report=scoring.folder / "out.html")
    assert "image files found by the rule image = file, without folders" in messages
    files = f"{photos / 'x' / 'b.jpg'} or {photos / 'y' / 'b.jpg'}"
    assert f"no image file for 2 of 4 images in {photos}; the first is b.jpg (perhaps {files}" in (
        messages
    )


def test_a_page_compares_two_models(scoring: Scoring, monkeypatch) -> None:
    other = scoring.write("other.json", CAPTIONS | {"a.jpg": "a cat asleep"})
    path = scoring.folder / "page.html"
    for _ in range(2):
        scoring.run(report=path, against=other)
    page = path.read_text("utf-8")
    assert "<h1>pred against other</h1>" in page
    ours, theirs = (
        evaluate_captions(CAPTIONS, REFERENCES),
        evaluate_captions(CAPTIONS | {"a.jpg": "a cat asleep"}, REFERENCES),
    )
    better = ours.corpus["CIDEr-D"], theirs.corpus["CIDEr-D"]
    shown = "</td><td>".join(f"{score:.1f}" for score in better)
    assert f"<td>CIDEr-D</td><td>{shown}</td><td>+{better[0] - better[1]:.1f} <span" in page
    (rows,) = re.findall(r'id="rows">(.*?)</script>', page)
    first, second, *_ = json.loads(rows)
    model, text, scores = first["other"]
    assert (model, text) == ("other", "a cat asleep")
    assert scores["BLEU-1"] < first["scores"]["BLEU-1"]
    assert second["other"] == ["other", second["captions"][0][0], second["scores"]]
    assert not any({"size", "note"} & row.keys() for row in (first, second))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_image": Path("x.xlsx")}, r"x\.xlsx: expected a file that ends in \.csv or"),
        ({"per_image": Path("none/x.csv")}, "there is no folder none"),
        ({"train_split": "train"}, "give --train"),
        (
            {"predictions": Path("p.csv"), "per_image": Path("./p.csv")},
            "--per-image p.csv: this would replace the predictions",
        ),
        (
            {"references": Path("p.csv"), "per_image": Path("p.csv")},
            "would replace the references",
        ),
        (
            {"predictions": Path("p.html"), "report": Path("./p.html")},
            "--report p.html: this would replace the predictions",
        ),
        ({"report": Path("mine.html")}, "--report mine.html: this file is no page that jaxcap"),
        ({"bootstrap": True, "resamples": 3}, "--resamples 3: expected 100 or more"),
        ({"bootstrap": True, "seed": -1}, "--seed is -1"),
        ({"images": Path("none")}, "--images none: expected the image folder"),
        ({"predictions": Path("none.json")}, "none.json: cannot read it"),
        ({"against": Path("refs.json")}, "refs.json holds references"),
    ],
)  # fmt: skip
def test_mistakes_are_reported(scoring: Scoring, options: dict[str, Any], message: str) -> None:
    for name in ("p.csv", "p.html"):
        (scoring.folder / name).touch()
    (scoring.folder / "mine.html").write_text("my page")
    with pytest.raises(InputError, match=message):
        scoring.run(**options)


def test_a_terminal_gets_tables(scoring: Scoring, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "200")
    scoring.write("other.json", CAPTIONS | {"a.jpg": "a cat"})
    console = Console(file=io.StringIO())
    arguments = ScoreArguments(
        Path("pred.json"), Path("refs.json"), against=Path("other.json"), baselines=True
    )
    score.run(arguments, console)
    text = screen.getvalue()
    bleu = evaluate_captions(CAPTIONS, REFERENCES).corpus["BLEU-1"]
    assert re.search(rf"BLEU-1 .* {bleu:.2f} ", text)
    for part in ("better/same/worse", "people, against 2", "distinct-2", "– SPICE: with --java"):
        assert part in text
    assert "images matched: image_id = image, exactly" in text


def test_a_run_on_flickr8k_scores_as_it_was_evaluated(scoring: Scoring) -> None:
    """End to end on real data, if available."""
    source = Path(os.environ.get("JAXCAP_FLICKR8K", "none"))
    run = Path(__file__).parents[2] / "runs" / "flickr8k"
    if not (source / "Flickr8k.token.txt").is_file() or not (run / "metrics-dev.json").is_file():
        pytest.skip("no Flickr8k in $JAXCAP_FLICKR8K, or no evaluated run in runs/flickr8k")
    found = scoring.lines(
        predictions=run / "predictions-dev.json",
        references=source / "Flickr8k.token.txt",
        image_list=source / "Flickr_8k.devImages.txt",
    )
    for name, value in json.loads((run / "metrics-dev.json").read_text())["scores"].items():
        assert float(found["score", name][0]) == pytest.approx(value, abs=5e-5)


def test_a_split_of_a_prepared_data_set_holds_the_references(scoring, tiny_data):
    source = load_source("shapes", "test", tiny_data)
    records = [source[i] for i in range(len(source))]
    scoring.write("pred.json", {f"{r['image_id']}.png": r["captions"][0] for r in records})
    lines = scoring.lines(
        references=Path("shapes:test"), train=Path("shapes:train"), data_dir=tiny_data
    )
    assert float(lines["score", "BLEU-4"][0]) == 100
    assert "|images:5|refs:5|" in lines["signature",][0]
    assert ("diversity", "these captions", "novel") in lines
