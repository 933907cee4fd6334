"""Paths on command lines and in configurations: `~`, and addresses of buckets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jaxcap.captioning.image_reading import read_image
from jaxcap.captioning.loaded_model import load
from jaxcap.config import Config, DataConfig, EncoderConfig, TrainConfig, validate
from jaxcap.config.local_paths import local_arguments, local_path
from jaxcap.messages.errors import InputError


def test_a_tilde_is_the_home_directory_wherever_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert local_arguments(["a~.jpg", "~/b", "--to=~/c", "--to", "~", "~.jpg", "--x=y~"]) == [
        *("a~.jpg", "/home/me/b", "--to=/home/me/c", "--to", "/home/me", "~.jpg", "--x=y~")
    ]
    assert local_path("~/data") == Path("/home/me/data")
    assert DataConfig(data_dir="~/data").directory == Path("/home/me/data")


def test_a_tilde_without_a_home_directory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(InputError, match=r"^--data-dir ~/x: there is no home directory for ~"):
        local_path("~/x", "--data-dir")
    with pytest.raises(InputError, match="there is no home directory"):
        local_arguments(["~/x"])
    assert local_arguments(["~.jpg"]) == ["~.jpg"]


@pytest.mark.parametrize("address", ["gs://b/run", "s3://b", "hdfs://n:9/x", "https://x.org/a.jpg"])
def test_addresses_are_refused_as_they_were_written(address: str) -> None:
    for arguments in (["--workdir", address], [f"--workdir={address}"]):
        with pytest.raises(InputError) as caught:
            local_arguments(["train", "x.py", *arguments])
        assert str(caught.value).startswith(
            f"--workdir {address}: an address, not a file or folder"
        )
    with pytest.raises(InputError, match=f"^{address}: an address"):
        local_arguments(["caption", address])
    with pytest.raises(InputError, match=r"^TFDS_DATA_DIR "):
        local_path(Path(address), "TFDS_DATA_DIR")


def test_other_colons_are_no_addresses() -> None:
    fine = [
        "C:/x/a.jpg",
        "C:\\x",
        "a:b.jpg",
        "my.module:SPEC",
        "train 0.5",
        "--ban",
        "x://",
        "a b://",
    ]
    assert local_arguments(fine) == fine
    texts = ["--prefix", "~", "--suffix=~/x", "--prefix", "style:/ "]  # not paths
    texts += ["--allow-origin", "https://example.org", "--note=https://example.org"]
    assert local_arguments(texts) == texts


def test_an_empty_name_is_not_the_current_folder() -> None:
    """A shell passes "" for a variable that is not set."""
    for option in ("--workdir", "--data-dir"):
        for arguments in ([option, ""], [f"{option}="]):
            with pytest.raises(InputError, match=f"^{option} '': an empty name, perhaps"):
                local_arguments(["train", "x.py", *arguments])
    with pytest.raises(InputError, match=r"^'': an empty name"):
        local_arguments(["caption", ""])
    texts = ["--prefix", "", "--suffix=", "--image-column", ""]
    assert local_arguments(texts) == texts
    with pytest.raises(InputError, match="an empty name"):
        load("")
    assert "an empty name" in (read_image("", 1, sizes=[8]).error or "")


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (Config(data=DataConfig(data_dir="gs://b/d")), "data.data_dir is gs://b/d"),
        (Config(encoder=EncoderConfig(weights="s3://b/w.pth")), "encoder.weights is s3://b/w.pth"),
        (Config(train=TrainConfig(start_from="gs://b/run")), "train.start_from is gs://b/run"),
        (Config(data=DataConfig(data_dir="")), "data.data_dir is ''"),
    ],
)
def test_paths_of_configurations_are_no_addresses_and_not_empty(
    config: Config, option: str
) -> None:
    with pytest.raises(InputError, match=f"{option}: an (address|empty name)"):
        validate(config)
