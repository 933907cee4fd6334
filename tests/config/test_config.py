"""Configurations: round trips, bounds, and messages that name the option and the way out."""

import dataclasses
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jaxcap.config import (
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    EvaluationConfig,
    RecognitionConfig,
    SearchConfig,
    Stage,
    TrainConfig,
    check_heeded,
    differences,
    from_dict,
    load_config,
    load_config_file,
    save_config,
    shipped_configs,
    to_dict,
    validate,
)
from jaxcap.config.options import (
    Bounds,
    Count,
    Option,
    Positive,
    Rate,
    Share,
    UpTo,
    field_docstrings,
    options_of,
)
from jaxcap.messages.errors import InputError

DETECT = Stage(1, train={"objective": "word_detection"})
CONFIGS = Path(__file__).parents[2] / "configs"

UNUSUAL = Config(
    data=DataConfig(
        name="shapes", data_dir="/données", length_buckets=(8, 12), crop_min_scale=0.5, flip=True
    ),
    encoder=EncoderConfig(
        name="resnet18",
        train_from="stage4",
        batch_stats="frozen",
        learning_rate_factor=0.1,
        dtype="bfloat16",
    ),
    decoder=DecoderConfig(name="lstm", output_dropout=0.25),
    train=TrainConfig(learning_rate=3e-4, seed=7),
    search=SearchConfig(beam_size=1),
    evaluation=EvaluationConfig(metric="BLEU-4"),
)


def _every_field_changed(section: Any) -> Any:
    """Return the dataclass with another, possibly invalid, value in each field."""
    change = {
        bool: lambda x: not x,
        int: lambda x: x + 1,
        float: lambda x: x + 0.5,
        str: lambda x: x + "'",
        tuple: lambda x: (*x, 99),
        type(None): lambda x: "something",
    }
    values = {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}
    return replace(section, **{name: change[type(x)](x) for name, x in values.items()})


@pytest.mark.parametrize("config", [Config(), UNUSUAL])
def test_round_trip(config: Config, tmp_path: Path) -> None:
    assert from_dict(Config, to_dict(config), where="x") == config
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config
    assert validate(config) == config


def test_absent_fields_take_their_defaults() -> None:
    assert from_dict(Config, {}, where="x") == Config()
    assert from_dict(Config, {"train": {"epochs": 3}}, where="x") == Config(
        train=TrainConfig(epochs=3)
    )


def test_json_values_are_converted_to_the_types_of_fields() -> None:
    data = from_dict(DataConfig, {"crop_min_scale": 1, "length_buckets": [4, 8]}, where="x")
    assert isinstance(data.crop_min_scale, float)
    assert data.length_buckets == (4, 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trian": {}}, r"f: there is no option 'trian'\. Did you mean 'train'\?.*Known: data, "),
        (
            {"train": {"lerning_rate": 1.0}},
            r"f\.train: there is no option 'lerning_rate'\. Did you mean 'learning_rate'\?",
        ),
        ({"train": {"qqq": 1}}, r"f\.train: there is no option 'qqq'\. Known: batch_size, "),
        ({"train": {"epochs": "10"}}, r"f\.train\.epochs is '10' \(str\); expected int\."),
        ({"train": {"epochs": 10.0}}, r"f\.train\.epochs is 10\.0 \(float\); expected int\."),
        ({"train": {"epochs": True}}, r"f\.train\.epochs is True \(bool\); expected int\."),
        ({"train": {"epochs": None}}, r"f\.train\.epochs is None \(NoneType\); expected int\."),
        (
            {"train": {"learning_rate": True}},
            r"f\.train\.learning_rate is True \(bool\); expected float\.",
        ),
        ({"train": {"learning_rate": "x"}}, r"learning_rate is 'x' \(str\); expected float\."),
        ({"data": {"flip": 1}}, r"f\.data\.flip is 1 \(int\); expected bool\."),
        ({"data": {"name": 3}}, r"f\.data\.name is 3 \(int\); expected str\."),
        ({"data": {"data_dir": 3}}, r"f\.data\.data_dir is 3 \(int\); expected str\."),
        ({"data": {"length_buckets": 16}}, r"length_buckets is 16; expected a list of int\."),
        (
            {"data": {"length_buckets": [16, "x"]}},
            r"f\.data\.length_buckets\[1\] is 'x' \(str\); expected int\.",
        ),
        ({"data": {"length_buckets": [True]}}, r"length_buckets\[0\] is True \(bool\)"),
        (
            {"encoder": {"batch_stats": "freeze"}},
            r"f\.encoder\.batch_stats is 'freeze'; it must be one of 'trained', 'frozen'\."
            r" Did you mean 'frozen'\?",
        ),
        (
            {"encoder": {"batch_stats": "frozn"}},
            r"f\.encoder\.batch_stats is 'frozn'; it must be one of 'trained', 'frozen'\."
            r" Did you mean 'frozen'\?",
        ),
        (
            {"encoder": {"dtype": "float16"}},
            r"f\.encoder\.dtype is 'float16'; it must be one of 'float32', 'bfloat16'\.",
        ),
        ({"encoder": {"train_from": 4}}, r"f\.encoder\.train_from is 4 \(int\); expected str\."),
        ({"decoder": {"scoring": 3}}, r"scoring is 3; it must be one of 'additive', 'dot'\."),
        ({"decoder": {"scoring": ["dot"]}}, r"scoring is \['dot'\]; it must be one of"),
        ({"train": 3}, r"f\.train: expected a table of options, found 3\."),
        ([], r"f: expected a table of options, found \[\]\."),
    ],
)
def test_errors_name_the_option(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(Config, values, where="f")


@pytest.mark.parametrize(
    ("section", "values"),
    [
        *(
            (section, {name: value})
            for section, names in {
                "data": ("image_size", "captions_per_image", "min_count"),
                "decoder": ("hidden_size", "embedding_size", "attention_size"),
                "train": ("batch_size", "log_every"),
                "search": ("beam_size", "max_length"),
                "evaluation": ("batch_size",),
            }.items()
            for name in names
            for value in (0, -1)
        ),
        ("train", {"epochs": -1}),
        *(
            ("train", {name: value})
            for name in ("learning_rate", "clip_norm")
            for value in (0.0, -1.0, float("nan"), float("inf"))
        ),
        *(
            (section, {name: value})
            for section, name in (
                ("decoder", "embedding_dropout"),
                ("decoder", "feature_dropout"),
                ("decoder", "output_dropout"),
                ("train", "label_smoothing"),
            )
            for value in (-0.1, 1.0, float("nan"))
        ),
        *(
            (section, {name: value})
            for section, name in (
                ("train", "warmup_epochs"),
                ("train", "weight_decay"),
                ("encoder", "learning_rate_factor"),
                ("search", "length_penalty"),
            )
            for value in (-0.1, float("nan"), float("inf"))
        ),
        *(("data", {"crop_min_scale": value}) for value in (0.0, -1.0, 1.1, float("nan"))),
        *(("data", {"length_buckets": value}) for value in ((), (8, 8), (8, 4), (1, 4), (-2,))),
    ],
)
def test_impossible_values_are_refused(section: str, values: dict[str, Any]) -> None:
    (name,) = values
    config = replace(Config(), **{section: replace(getattr(Config(), section), **values)})
    with pytest.raises(InputError, match=rf"{section}\.{name} is .*must be"):
        validate(config)


def _numeric_options() -> list[tuple[str, Option]]:
    return [
        (section, option)
        for section, value in vars(Config()).items()
        if dataclasses.is_dataclass(value)
        for option in options_of(type(value)).values()
        if option.hint in (int, float, int | None, tuple[int, ...])
    ]


def _with(section: str, name: str, value: Any) -> Config:
    return replace(Config(), **{section: replace(getattr(Config(), section), **{name: value})})


@pytest.mark.slow
def test_every_number_has_a_lower_and_an_upper_bound() -> None:
    assert len(_numeric_options()) > 40
    for section, option in _numeric_options():
        assert option.bounds is not None, f"{section}.{option.name} declares no bounds"
        kind = float if option.hint is float else int
        for bad in (kind(-1), kind(option.bounds.low) - 1, kind(option.bounds.high) + 1):
            value = (bad,) if option.hint == tuple[int, ...] else bad
            with pytest.raises(InputError, match=rf"^{section}\.{option.name} is .*must be "):
                validate(_with(section, option.name, value))


@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("data", {"image_size": 20_000}),
        ("decoder", {"refiner_layers": 17}),
        ("train", {"samples": 1_000_000}),
        ("search", {"samples": 1_000_000}),
        ("search", {"max_length": 1_000_000_000}),
    ],
)
def test_no_file_asks_for_absurd_sizes(section: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"it must be .* and at most \d+\.$"):
        validate(from_dict(Config, {section: options}, where="config.json"))
    stages = [{"epochs": 1}] * 101
    with pytest.raises(InputError, match=r"^stages has 101 elements; at most 100 are allowed"):
        validate(from_dict(Config, {"stages": stages}, where="config.json"))


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "text"),
    [
        (Count(3), (1, 3), (0, 4), "at least 1 and at most 3"),
        (UpTo(2.5), (0, 2.5), (-0.1, 2.6), "at least 0 and at most 2.5"),
        (Positive(2), (1e-9, 2), (0, 2.1), "greater than 0 and at most 2"),
        (Rate, (0, 0.99), (-0.1, 1), "at least 0 and less than 1"),
        (Share, (0.01, 1), (0, 1.1), "greater than 0 and at most 1"),
    ],
)
def test_bounds(bounds: Bounds, inside: Any, outside: Any, text: str) -> None:
    assert str(bounds) == text
    assert all(map(bounds.accept, inside))
    assert bounds.accept(inside)
    assert bounds.accept(None)
    for value in (*outside, float("nan"), float("inf")):
        assert not bounds.accept(value)
        assert not bounds.accept((inside[0], value))


def test_the_help_of_an_option_names_where_it_applies() -> None:
    """The docstring of a field and its declared scope must agree."""
    for section in (SearchConfig, DecoderConfig):
        docstrings = field_docstrings(section)
        for option in options_of(section).values():
            if option.applies_to is not None:
                values = ", ".join(option.applies_to.values)
                assert docstrings[option.name].startswith(f"{values}: "), option.name


def test_every_option_has_help() -> None:
    for section, value in vars(Config()).items():
        if dataclasses.is_dataclass(value):
            assert set(field_docstrings(type(value))) == set(options_of(type(value))), section


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples": 2}, "search.samples has no effect with search.method 'beam'; .*sample"),
        ({"method": "greedy", "n_best": 1}, "n_best has no effect .*'greedy'.* beam or diverse"),
        ({"groups": 3}, "groups has no effect .* give the method diverse"),
        ({"length_normalisation": "none", "length_penalty": 1.0}, "length_penalty has no effect"),
        ({"n_best": 4}, "search.n_best is 4, but search.beam_size is 3"),
    ],
)
def test_an_option_without_effect_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_heeded(given, replace(SearchConfig(), **given))


def test_options_with_an_effect_are_accepted() -> None:
    for given in ({"method": "sample", "samples": 2}, {"beam_size": 4, "n_best": 4}):
        check_heeded(given, replace(SearchConfig(), **given))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recognition": {"branch": None}}, "recognition.branch is None: the recogniser has no"),
        ({"train": {"start_from": "runs/a"}}, "train.start_from names a captioner"),
        ({"encoder": {"weights": None}}, "encoder.weights is None"),
        ({"stages": (Stage(1, encoder={"trainable": True}), DETECT)}, r"before stages\[1\] trains"),
    ],
)
def test_a_recogniser_learns_only_beside_the_published_encoder(
    changes: dict[str, Any], message: str
) -> None:
    config = Config(
        encoder=EncoderConfig(name="efficientnet_lite0", weights="imagenet", trainable=False),
        recognition=RecognitionConfig(words=20, branch="block15", trainable=True),
        stages=(DETECT, Stage(1)),
    )
    validate(config)
    sections = {
        name: value if name == "stages" else replace(getattr(config, name), **value)
        for name, value in changes.items()
    }
    with pytest.raises(InputError, match=f"recognition.trainable is true.*{message}"):
        validate(replace(config, **sections))


def test_a_frozen_encoder_has_no_first_trained_stage() -> None:
    encoder = EncoderConfig(trainable=False, train_from="stage4")
    with pytest.raises(
        InputError,
        match=r"encoder\.train_from is 'stage4', but encoder\.trainable is false.*Leave one",
    ):
        validate(Config(encoder=encoder))


@pytest.mark.parametrize(
    "config",
    [
        Config(data=DataConfig(crop_min_scale=1e-6, length_buckets=(2,), image_size=1)),
        Config(decoder=DecoderConfig(output_dropout=0.0), train=TrainConfig(label_smoothing=0.99)),
        Config(train=TrainConfig(warmup_epochs=0.0, weight_decay=0.0, batch_size=1, epochs=1)),
        Config(search=SearchConfig(length_penalty=0.0, beam_size=1, max_length=1)),
    ],
)
def test_values_at_the_bounds_are_accepted(config: Config) -> None:
    assert validate(config) == config


def test_validate_converts_integers_to_floats() -> None:
    validated = validate(Config(train=TrainConfig(learning_rate=1)))
    assert isinstance(validated.train.learning_rate, float)


def test_differences_name_every_option_that_defines_the_experiment() -> None:
    assert differences(Config(), Config()) == []
    sections = {f.name: getattr(Config(), f.name) for f in dataclasses.fields(Config)}
    del sections["stages"]
    changed = Config(**{name: _every_field_changed(x) for name, x in sections.items()})
    lines = differences(changed, Config())
    fields = [f"{s}.{f.name}" for s, x in sections.items() for f in dataclasses.fields(x)]
    aside = {"data.data_dir", "data.pieces_model", "encoder.cache_dir", "encoder.cache_features"}
    aside |= {f"train.{name}" for name in ("save_every", "save_minutes", "patience", "tensorboard")}
    aside |= {f"train.{name}" for name in ("device", "coordinator", "processes", "process_id")}
    aside |= {"train.coordinator_timeout", "train.parallel"}
    assert [line.split(":")[0] for line in lines] == [f for f in fields if f not in aside]
    assert "train.epochs: 11, expected 10" in lines


def test_the_difference_of_long_lists_is_short() -> None:
    words = [str(number) for number in range(100)]
    one, two = (Config(recognition=RecognitionConfig(detected_words=(*words, x))) for x in "ab")
    assert differences(one, two) == ["recognition.detected_words[100]: 'a', expected 'b'"]
    assert differences(one, Config()) == ["recognition.detected_words[0]: '0', expected None"]


def test_data_directory_expands_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert DataConfig().directory is None
    assert DataConfig(data_dir="~/d").directory == Path("/home/someone/d")


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "experiment.py"
    path.write_text("from jaxcap.config import *\n" + text, encoding="utf-8")
    return path


def test_a_configuration_file_is_run(tmp_path: Path) -> None:
    path = _file(tmp_path, "CONFIG = Config(train=TrainConfig(epochs=2 + 1))")
    assert load_config_file(path) == Config(train=TrainConfig(epochs=3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"experiment\.py: it must define CONFIG = jaxcap\.config\.Config\("),
        ("CONFIG = {'train': {}}", r"experiment\.py: it must define CONFIG"),
        ("CONFIG = (", r"experiment\.py, line 2: '\(' was never closed"),
        (
            "CONFIG = Config(train=TrainConfig(lerning_rate=1e-3))",
            r"experiment\.py, line 2: TrainConfig has no option 'lerning_rate'\."
            r" Did you mean 'learning_rate'\? Known: batch_size, ",
        ),
        ("CONFIG = Config(trian=3)", r"Config has no option 'trian'\. Did you mean 'train'\?"),
        (
            "CONFIG = Config(train=TrainConfig(epochs=-1))",
            r"experiment\.py: train\.epochs is -1; it must be at least 0",
        ),
        (
            "CONFIG = Config(train=TrainConfig(epochs='3'))",
            r"experiment\.py: .*train\.epochs is '3' \(str\); expected int",
        ),
        (
            "from pathlib import Path\nCONFIG = Config(data=DataConfig(data_dir=Path('/data')))",
            r"experiment\.py: .*data_dir is PosixPath\('/data'\) \(PosixPath\); expected str",
        ),
        (
            "CONFIG = Config(data=DataConfig(length_buckets={4, 8}))",
            r"experiment\.py: .*length_buckets is \{.*\}; expected a list of int",
        ),
        (
            "CONFIG = Config(train=DataConfig())",
            r"experiment\.py: .*train: there is no option 'name'",
        ),
        ("CONFIG = Config(train=None)", r"train: expected a table of options, found None"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config_file(_file(tmp_path, text))


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    _file(tmp_path, "")
    with pytest.raises(
        InputError,
        match=r"experimnt\.py: no such configuration file\."
        r" Did you mean 'experiment\.py'\?",
    ):
        load_config_file(tmp_path / "experimnt.py")
    with pytest.raises(InputError, match=r"a\.py: no such configuration file\. Give a path"):
        load_config_file(tmp_path / "nowhere" / "a.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise TypeError('mine')", "line 2: TypeError: mine"),
        ("import numpyy", "line 2: ModuleNotFoundError: No module named 'numpyy'"),
        ("def f(): pass\nf(x=1)", r"line 3: TypeError: f\(\) got an unexpected keyword"),
        ("class Own: pass\nOwn.__init__(Own(), x=1)", "line 3: TypeError"),
    ],
)
def test_an_exception_in_a_file_is_reported_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=rf"experiment\.py, {message}"):
        load_config_file(_file(tmp_path, text))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_the_configurations_of_the_repository_are_valid(path: Path) -> None:
    assert isinstance(load_config_file(path.stem), Config)
    assert shipped_configs()[path.stem] == path


def test_only_files_that_end_in_py_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    marks = "__import__('pathlib').Path('ran').touch()"
    Path("config.json").write_text(f'{{"data": {marks}}}')
    Path("shapes").write_text(marks)  # beside the configuration of this name
    with zipfile.ZipFile("photo.jpg", "w") as archive:  # Python runs the archive in any file
        archive.writestr("__main__.py", marks)
    for name in ("config.json", "photo.jpg"):
        with pytest.raises(InputError, match=rf"{name}: not a configuration\. .* ends in \.py"):
            load_config_file(name)
    assert load_config_file("shapes") == load_config_file(CONFIGS / "shapes.py")
    assert not Path("ran").exists()
    with pytest.raises(InputError, match="Did you mean 'flickr8k'"):
        load_config_file("flikr8k")


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"3", b'{"train": {"epochs": -1}}'])
def test_a_damaged_saved_configuration_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(damage)
    with pytest.raises(InputError, match=r"config\.json"):
        load_config(path)


def test_errors_in_a_saved_configuration_name_its_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"train": {"optimiser": "sgd"}}), encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json\.train: there is no option 'optimiser'"):
        load_config(path)
    with pytest.raises(InputError, match=r"nowhere\.json: cannot read the file"):
        load_config(tmp_path / "nowhere.json")
