"""`jaxcap score --units characters`: captions in scripts without spaces between words."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jaxcap.commands import score
from jaxcap.commands.score import ScoreArguments
from jaxcap.messages.errors import InputError
from jaxcap.metrics import evaluate_captions

REFERENCES = {f"{n}.jpg": ["一只狗在草地上跑。", "一只棕色的狗。"] for n in range(8)} | {
    f"{n}.jpg": ["两个人在街上说话。", "街上有两个人。"] for n in range(8, 16)
}
CAPTIONS = {name: each[0].rstrip("。").replace("草", "花") for name, each in REFERENCES.items()}


def run(folder: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """Return the messages and the result as JSON."""
    for name, content in (("pred.json", CAPTIONS), ("refs.json", REFERENCES)):
        (folder / name).write_text(json.dumps(content), "utf-8")
    messages, printed = io.StringIO(), io.StringIO()
    arguments = ScoreArguments(folder / "pred.json", folder / "refs.json", json=True, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", printed)
        assert score.run(arguments, Console(file=messages, width=500)) == 0
    return messages.getvalue(), json.loads(printed.getvalue())


def test_characters_are_counted_and_the_signature_says_so(tmp_path: Path) -> None:
    messages, found = run(
        tmp_path, units="characters", baselines=True, train=tmp_path / "pred.json"
    )
    expected = evaluate_captions(CAPTIONS, REFERENCES, units="characters").corpus
    for name, value in expected.items():
        assert found["scores"][name] == pytest.approx(value)
    # Half the captions have 7 of 8 characters right, half all 8.
    assert found["scores"]["BLEU-1"] == pytest.approx(100 * 15 / 16)
    assert "|tok:graphemes.nfkc|case:lc|punct:no|" in found["signature"]
    assert set(found["unavailable"].values()) == {"for English words only"}
    # Chinese has no capitals and other full stops, so it must not look tokenised.
    assert "tokenised" not in messages
    text = json.dumps(found, ensure_ascii=False)
    assert "街上有两个人" in text or "两个人在街上说话" in text  # the best constant, without spaces


def test_a_sentence_without_spaces_is_one_word(tmp_path: Path) -> None:
    _, found = run(tmp_path)
    # Half of the captions are right, with one token where the references have two (the full stop).
    assert found["scores"]["BLEU-1"] == pytest.approx(50 * math.exp(1 - 2 / 1))
    assert "|tok:ptb3.4.1|" in found["signature"]


def test_java_metrics_are_for_english_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="METEOR and SPICE score English words only"):
        run(tmp_path, units="characters", java=True)
