"""Captions in many scripts: into units, to ids, and back to text."""

from __future__ import annotations

import builtins
import dataclasses
import json
import unicodedata
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from jaxcap.config import Config, DataConfig, differences, validate
from jaxcap.messages.errors import InputError
from jaxcap.metrics import tokenize
from jaxcap.metrics.graphemes import character_tokens
from jaxcap.metrics.lost_letters import loses_letters
from jaxcap.text.unicode_words import unicode_words
from jaxcap.text.units import (
    OLD_WORDS,
    WORDS,
    Characters,
    Pieces,
    StoredUnits,
    TextUnits,
    Words,
    create_units,
    units_from_json,
    units_to_json,
)
from jaxcap.text.vocabulary import SPECIALS, UNK, Vocabulary

SCRIPTS = {
    "Chinese": "一只棕色的狗在草地上奔跑。",
    "Japanese": "茶色い犬が、ガラスの前を走っている。",
    "Thai": "สุนัขสีน้ำตาลกำลังวิ่งบนหญ้า",
    "Arabic": "كلبٌ بُنِّيٌّ يركض على العشب",
    "Devanagari": "एक भूरा कुत्ता घास पर दौड़ रहा है।",
    "Korean": "갈색 개가 잔디 위를 달린다",
    "Hebrew": "כֶּלֶב חוּם רָץ עַל הַדֶּשֶׁא",
    "emoji": "👩‍👩‍👧 with a 🐕 in 🇯🇵 👍🏽",
    "French": "un chien brun court dans l'herbe à côté du café",
}


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    pytest.importorskip("sentencepiece")
    return Pieces.train([*SCRIPTS.values(), "a red circle", "a red square"] * 4, size=250)


def there_and_back(units: TextUnits, caption: str) -> str:
    split = units.split(caption)
    vocabulary = Vocabulary.from_captions([split], min_count=1, units=units)
    ids = vocabulary.encode(split, max_length=10**6)
    assert UNK not in ids
    return vocabulary.decode(ids)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_the_same_text_again(script: str, pieces: Pieces) -> None:
    caption = SCRIPTS[script]
    expected = unicodedata.normalize("NFC", caption).lower()
    assert there_and_back(Characters(), caption) == expected
    assert there_and_back(pieces, caption) == expected
    decomposed = unicodedata.normalize("NFD", caption)
    assert there_and_back(Characters(), decomposed) == expected


def test_characters_by_hand() -> None:
    assert Characters().split(" 一只  Dog。\n") == ["一", "只", " ", "d", "o", "g", "。"]
    assert Characters().split("นี้") == ["นี้"]
    assert Characters("none").split("e\u0301") == ["e\u0301"]
    assert Characters("NFC").split("e\u0301Ａ") == ["é", "ａ"]
    assert Characters("NFKC").split("e\u0301Ａ") == ["é", "a"]
    assert Characters().split("a\ud800") == ["a", "\ufffd"]
    assert Characters().split(" \t") == []


# Spaces of all kinds, marks, joiners, private and unassigned code points, specials: anything.
CAPTIONS = st.text(max_size=60) | st.lists(
    st.sampled_from([*SCRIPTS.values(), "<unk>", "<eos>", "▁", "\u0301", "\u200d", "\0", "İ", "ϓ"])
).map("".join)


@hypothesis.given(CAPTIONS, st.sampled_from(["none", "NFC", "NFKC"]))
def test_characters_decode_to_the_normalised_caption(caption: str, form: str) -> None:
    units = Characters(form)
    hypothesis.assume(units.split(caption))
    assert there_and_back(units, caption) == units.clean(caption)
    # Written down as UTF-8, it stays what it is.
    assert units.clean(caption).encode().decode() == units.clean(caption)


@hypothesis.given(CAPTIONS, st.sampled_from(["none", "NFC", "NFKC"]))
def test_pieces_decode_to_the_normalised_caption(pieces: Pieces, caption: str, form: str) -> None:
    units = dataclasses.replace(pieces, normalisation=form)
    hypothesis.assume(set(units.split(caption)) - set(SPECIALS))
    assert there_and_back(units, caption) == units.clean(caption)


@hypothesis.given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_english_words_are_the_papers_tokens_in_every_form(caption: str) -> None:
    for form in ("none", "NFC", "NFKC"):
        assert Words(form).split(caption) == tokenize(caption)


def test_words_of_one_letter_written_in_two_ways_are_one_word() -> None:
    assert WORDS.split("cafe\u0301") == WORDS.split("caf\u00e9") == ["café"]
    assert Words("none").split("cafe\u0301") != Words("none").split("caf\u00e9")
    assert WORDS.join(["a", "dog"]) == WORDS.clean("A dog.") == "a dog"


def test_no_spaces_come_into_chinese_and_none_are_lost_in_english(pieces: Pieces) -> None:
    for units in (Characters(), pieces):
        assert there_and_back(units, "红色的圆") == "红色的圆"
        assert there_and_back(units, "a red circle") == "a red circle"


def test_an_unknown_unit_shows_as_such(pieces: Pieces) -> None:
    chinese = Vocabulary((*SPECIALS, "红", "圆"), Characters())
    assert chinese.decode([4, UNK, 5]) == "红<unk>圆"
    assert pieces.join(["▁a", "<unk>", "▁red"]) == "a <unk> red"
    assert pieces.join([]) == ""


def test_frequent_words_become_whole_pieces_and_rare_ones_fall_apart(pieces: Pieces) -> None:
    assert pieces.split("a red") == ["▁a", "▁red"]
    assert len(pieces.split("adder")) > 1
    assert "".join(pieces.split("adder")) == "▁adder"


def test_the_same_captions_give_the_same_model(pieces: Pieces) -> None:
    again = Pieces.train([*SCRIPTS.values(), "a red circle", "a red square"] * 4, size=250)
    assert again.model == pieces.model
    assert again == pieces


def test_sizes_that_cannot_be() -> None:
    pytest.importorskip("sentencepiece")
    # a, b, c, d and the sign for a space: five characters, and <unk>.
    with pytest.raises(InputError, match=r"size is 4, but.* 5 different characters.*least 6"):
        Pieces.train(["ab cd"], size=4)
    assert Pieces.train(["ab cd"], size=6).split("abc") == ["▁", "a", "b", "c"]
    # Asking for more than there are is not an error: the size is a limit.
    assert Pieces.train(["ab cd"] * 9, size=10_000).split("ab cd") == ["▁ab", "▁cd"]
    with pytest.raises(InputError, match="No pieces can be learned"):
        Pieces.train(["", " "], size=100)


def test_a_given_model_is_kept_whole(pieces: Pieces, tmp_path: Path) -> None:
    path = tmp_path / "some.model"
    path.write_bytes(pieces.model)
    config = DataConfig(units="pieces", pieces_model=str(path), normalisation="NFKC")
    units = create_units(config, lambda: pytest.fail("captions are not needed"))
    assert units == dataclasses.replace(pieces, normalisation="NFKC")
    for damaged in (b"", b"no model" * 99, pieces.model[:100]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"some\.model: not a SentencePiece model"):
            create_units(config, list)
    path.unlink()
    with pytest.raises(InputError, match=r"some\.model: cannot read the file: No such"):
        create_units(config, list)


def _trained(tmp_path: Path, **options: Any) -> Path:
    library = pytest.importorskip("sentencepiece")
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(["a dog runs", "a cat sleeps"]),
        model_prefix=str(tmp_path / "own"),
        model_type="bpe",
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=3,
        **options,
    )
    return tmp_path / "own.model"


@pytest.mark.parametrize("name", ["identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"])
def test_the_normalisation_rules_of_sentencepiece_are_allowed(name: str, tmp_path: Path) -> None:
    units = Pieces.read(_trained(tmp_path, normalization_rule_name=name))
    assert units.join(units.split("a dog")) == "a dog"


@pytest.mark.parametrize(
    ("bytes_", "option"),
    [(64, "normalization_rule_tsv"), (65, "normalization_rule_tsv"), (1, "de"), (65, "unk")],
)
def test_a_model_cannot_multiply_text(bytes_: int, option: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.tsv"
    rules.write_text("61\t" + " ".join(["78"] * bytes_) + "\n")  # a becomes xx…
    if option == "unk":
        path = _trained(tmp_path, unk_surface="x" * bytes_)
    else:
        path = _trained(tmp_path, **{option.replace("de", "denormalization_rule_tsv"): str(rules)})
    if bytes_ == 64:
        assert "".join(Pieces.read(path).split("a")) == "▁" + "x" * 64
        return
    with pytest.raises(InputError, match=r"own\.model: .*(more than 64 bytes|denormalization)"):
        Pieces.read(path)


def test_units_by_their_options() -> None:
    assert create_units(DataConfig(), list) == WORDS == Words("NFC")
    assert create_units(DataConfig(units="characters", normalisation="none"), list) == Characters(
        "none"
    )
    pytest.importorskip("sentencepiece")
    learnt = create_units(DataConfig(units="pieces", vocabulary_size=6), lambda: ["ab cd"])
    assert learnt == Pieces.train(["ab cd"], size=6)


def test_options_that_contradict_or_may_change() -> None:
    with pytest.raises(InputError, match=r"pieces_model is 'x', but data\.units is words"):
        validate(Config(data=DataConfig(pieces_model="x")))
    with pytest.raises(InputError, match="vocabulary_size is 0"):
        validate(Config(data=DataConfig(vocabulary_size=0)))
    # The run holds the model: its file may move.
    moved = [Config(data=DataConfig(units="pieces", pieces_model=p)) for p in ("a", "b")]
    assert differences(*moved) == []


@pytest.mark.parametrize("units", [Words("none"), Characters("NFKC"), "pieces"])
def test_a_vocabulary_keeps_all_that_it_takes(units: Any, pieces: Pieces, tmp_path: Path) -> None:
    units = pieces if units == "pieces" else units
    vocabulary = Vocabulary.from_captions(
        [units.split(text) for text in SCRIPTS.values()], min_count=1, units=units
    )
    vocabulary.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert loaded == vocabulary
    ids = loaded.encode(loaded.units.split("一只狗"), max_length=20)
    assert ids == vocabulary.encode(units.split("一只狗"), max_length=20)


def test_a_file_from_before_there_was_a_choice_is_of_words(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps({"words": [*SPECIALS, "a", "dog"]}))
    assert Vocabulary.load(path) == Vocabulary((*SPECIALS, "a", "dog"), OLD_WORDS)


def test_words_of_old_runs_are_split_as_they_were() -> None:
    stored = StoredUnits("words", "NFC")  # without boundaries
    assert units_from_json(stored, where="x") == OLD_WORDS
    hindi, kannada = "कुत्ता दौड़ रहा है।", "ಹುಲಿ"
    assert OLD_WORDS.split(hindi) == tokenize(hindi) == ["कुत्ता", "दौड़", "रहा", "है", "।"]
    assert OLD_WORDS.split(kannada) == tokenize(kannada) == ["ಹ", "ಲ"]
    assert units_to_json(OLD_WORDS) == {"units": "words", "normalisation": "NFC"}
    new = units_to_json(WORDS)
    assert new == {"units": "words", "normalisation": "NFC", "boundaries": "unicode"}
    assert units_from_json(StoredUnits(**new), where="x") == WORDS


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("ಒಂದು ನಾಯಿ, ಹುಲ್ಲಿನ ಮೇಲೆ ಓಡುತ್ತಿದೆ.", "ಒಂದು ನಾಯಿ ಹುಲ್ಲಿನ ಮೇಲೆ ಓಡುತ್ತಿದೆ"),  # Kannada
        ("ഒരു നായ പുല്ലിൽ ഓടുന്നു", "ഒരു നായ പുല്ലിൽ ഓടുന്നു"),  # Malayalam
        ("ଗୋଟିଏ କୁକୁର ଘାସ ଉପରେ ଦୌଡୁଛି।", "ଗୋଟିଏ କୁକୁର ଘାସ ଉପରେ ଦୌଡୁଛି"),  # Odia
        ("ਇੱਕ ਕੁੱਤਾ ਘਾਹ ਦੌੜਦਾ ਹੈ।", "ਇੱਕ ਕੁੱਤਾ ਘਾਹ ਦੌੜਦਾ ਹੈ"),  # Punjabi
        ("බල්ලෙක් ශ්‍රී තණකොළ", "බල්ලෙක් ශ්‍රී තණකොළ"),  # Sinhala, with a joiner
        ("ခွေး ပြေးနေသည်။", "ခွေး ပြေးနေသည်"),  # Burmese
        ("ឆ្កែ កំពុង រត់។", "ឆ្កែ កំពុង រត់"),  # Khmer
        ("ཁྱི་ཞིག་རྒྱུག།", "ཁྱི ཞིག རྒྱུག"),  # Tibetan, whose words end at a point
        ("سگ می‌دود؟", "سگ می‌دود"),  # Persian
        ("कुत्ता दौड़ रहा है।", "कुत्ता दौड़ रहा है"),  # Hindi
        ("كلب يجري، هنا؟", "كلب يجري هنا"),  # Arabic
        ("ውሻ ይሮጣል።", "ውሻ ይሮጣል"),  # Amharic
        ("𞤀𞤣𞤤𞤢𞤥", "𞤢𞤣𞤤𞤢𞤥"),  # Adlam, which has capitals
        ("A man's dog isn’t 5-year-old 👩‍👧 ❤️", "a man 's dog is n't 5-year-old ❤"),
    ],
)
def test_words_of_every_script_keep_their_letters(caption: str, words: str) -> None:
    assert WORDS.split(caption) == words.split()


@pytest.mark.parametrize(
    "text",
    [
        7,
        "words",
        [],
        {},
        {"units": "words"},
        {"units": "letters", "normalisation": "NFC"},
        {"units": "words", "normalisation": "nfc"},
        {"units": ["words"], "normalisation": "NFC"},
        {"units": "pieces", "normalisation": "NFC"},
        {"units": "pieces", "normalisation": "NFC", "model": "no base 64!"},
        {"units": "pieces", "normalisation": "NFC", "model": "aGVsbG8="},
        {"units": "pieces", "normalisation": "NFC", "model": 7},
    ],
)
def test_damaged_units_are_named(text: Any, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps({"words": [*SPECIALS, "a"], "text": text}))
    with pytest.raises(InputError, match=r"vocabulary\.json(\.text|: not a SentencePiece)"):
        Vocabulary.load(path)


def test_without_sentencepiece_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pieces: Pieces
) -> None:
    (tmp_path / "x.model").write_bytes(pieces.model)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "sentencepiece":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for action in (
        lambda: Pieces.train(["a"], size=9),
        lambda: Pieces.read(tmp_path / "x.model"),
        lambda: units_from_json(StoredUnits(**units_to_json(pieces)), where="x"),
    ):
        with pytest.raises(InputError, match=r"pip install 'jaxcap\[pieces\]'"):
            action()


@pytest.mark.slow
@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0f73", "\u200d", "\u17b6"])
@pytest.mark.parametrize("before", ["", "ಹ"])
def test_long_runs_of_marks_end(before: str, marks: str) -> None:
    # Quadratic searches would take many minutes.
    text = before + marks * 50_000
    assert loses_letters(text) == (bool(before) and marks != "\u0301\u0323")
    assert len(unicode_words(text)) == len(before)
    assert len(character_tokens(text)) <= 2
