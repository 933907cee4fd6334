"""The commands from a user's side: results, messages, exit codes, and no traceback."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from PIL import Image

import jaxcap
from jaxcap.commands import cli
from jaxcap.config import to_dict

pytestmark = pytest.mark.usefixtures("shared_programs")

ROOT = Path(__file__).parents[2]
MAIN = "import jaxcap.commands.cli; jaxcap.commands.cli.main()"
TRAIN = functools.partial(cli.main, "train")
EVALUATE = functools.partial(cli.main, "evaluate")


class Outcome(NamedTuple):
    """The outcome of a command: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path) -> Command:
    """Run an entry point in this process, in an empty directory, with the tests' own cache."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(entry: Callable[[], None], *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            entry()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        code = exit.value.code
        return Outcome(code if isinstance(code, int) else int(code is not None), out, err)

    return run


@pytest.fixture
def config_file(tiny_config, tmp_path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(
        "from jaxcap.config import Config, from_dict\n"
        f"CONFIG = from_dict(Config, {to_dict(tiny_config)!r}, where='tiny')\n"
    )
    return path


def png(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), colour).save(path, format="PNG")
    return path


# Mistakes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "The first argument must be a configuration."),
        (["--workdir", "x"], "The first argument must be a configuration."),
        (["tinny.py"], "tinny.py: no such configuration file. Did you mean 'tiny.py'?"),
        (["tiny.py", "--train.epoch", "3"], "Did you mean '--train.epochs'?"),
        (["tiny.py", "--evaluation.batchsize", "3"], "Did you mean '--evaluation.batch-size'?"),
        (["tiny.py", "--train.hidden-size", "3"], "Did you mean '--decoder.hidden-size'?"),
        (["tiny.py", "--search.beam", "3"], "Did you mean '--search.beam-size'?"),
        (["tiny.py", "--train.max-steps", "3"], "unknown option '--train.max-steps'. jaxcap"),
        (["tiny.py", "--train.epochs", "ten"], "--train.epochs"),
        (["tiny.py", "--train.epochs"], "--train.epochs"),
        (["tiny.py", "--train.epochs", "-1"], "train.epochs is -1; it must be at least 0"),
        (["tiny.py", "--decoder.name", "lstn"], "lstn"),
        (["tiny.py", "--data.data-dir", "/nowhere"], "Run: jaxcap prepare shapes"),
        (["tiny.py", "--data.name", "shape"], "Did you mean 'shapes'?"),
        (["tiny.py", "--encoder.name", "resnet5"], "Did you mean 'resnet50'?"),
        (["field.py"], "TrainConfig has no option 'epoch'. Did you mean 'epochs'?"),
        (["none.py"], "none.py: it must define CONFIG"),
        (["syntax.py"], "syntax.py, line 1"),
    ],
)
def test_mistakes_in_training(command, config_file, tmp_path, arguments, message):
    (tmp_path / "field.py").write_text(
        "from jaxcap.config import *\nCONFIG = Config(train=TrainConfig(epoch=3))\n"
    )
    (tmp_path / "none.py").write_text("x = 1\n")
    (tmp_path / "syntax.py").write_text("CONFIG = (\n")
    outcome = command(TRAIN, *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--model", "RUN"], "give one of the two"),
        (["RUN", "--data", "holidays", "--data-dir", "DATA"], "holidays"),
        (["nowhere"], "nowhere: no such run directory"),
        (["."], "not a run directory"),
        (
            ["RUN", "--split", "tets", "--data-dir", "DATA"],
            "no split 'tets'; expected one of train (50), dev (6), test (5)",
        ),
        (["RUN"], "opens this folder only if you name it. If you trust it, give --data-dir "),
        (["RUN", "--beam-size", "0"], "beam size 0"),
        (["RUN", "--beam-size", "two"], "--beam-size"),
        (["RUN", "--data-dir", "/nowhere"], "not prepared in /nowhere"),
        (["RUN", "--spilt", "dev"], "--split"),
    ],
)
def test_mistakes_in_evaluation(command, tiny_run, tiny_data, arguments, message):
    paths = {"RUN": tiny_run, "DATA": tiny_data}
    outcome = command(EVALUATE, *[paths.get(a, a) for a in arguments])
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: jaxcap COMMAND"),
        (["prepar", "shapes"], "prepare, data, configs, train, finetune, evaluate, caption"),
        (["prepare", "shapez"], "Did you mean 'shapes'?"),
        (["prepare", "flickr8k", "--data-dir", "x"], "--source"),
        (["prepare", "flickr8k", "--source", "nowhere", "--data-dir", "x"], "nowhere"),
        (["prepare", "shapes", "--data-dir", "photo.png"], "photo.png"),
        (["caption", "--model", "RUN"], "No images given"),
        (["caption", "photo.png", "--model", "nowhere"], "nowhere: no such run directory"),
        (["caption", "missing.jpg", "--model", "RUN"], "missing.jpg: no such file or folder"),
        (["caption", "empty", "--model", "RUN"], "empty: no image in this folder"),
        (["caption", "photo.png", "--model", "RUN", "--beam-size", "0"], "beam size 0"),
        (["caption", "photo.png", "--model", "RUN", "--beam-siz", "2"], "--beam-size"),
    ],
)
def test_mistakes_in_the_jaxcap_command(command, tiny_run, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    png(tmp_path / "photo.png")
    outcome = command(cli.main, *[tiny_run if a == "RUN" else a for a in arguments])
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "arguments", "expected"),
    [
        (TRAIN, ["--help"], "--train.learning-rate"),
        (EVALUATE, ["--help"], "--length-penalty"),
        (cli.main, ["--help"], "prepare"),
        (cli.main, ["--version"], f"jaxcap {jaxcap.__version__}"),
        (cli.main, ["caption", "--help"], "--beam-size"),
    ],
)
def test_help(command, entry, arguments, expected):
    outcome = command(entry, *arguments)
    assert outcome.code == 0
    assert expected in outcome.out


def test_closed_standard_streams_are_empty(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jaxcap", "configs"])
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert sys.stdin.read() == ""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_ends_a_command_leaves_no_temporary_file(tmp_path, name):
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    program = f"""
import os, signal
from pathlib import Path
from jaxcap.commands import cli, configs
from jaxcap.files import replacing
def run(*_):
    with replacing(Path({str(path)!r})) as beside:
        beside.write_text("half")
        os.kill(os.getpid(), signal.{name})
        beside.write_text("new")
configs.run = run
signal.signal(signal.{name}, signal.SIG_DFL)  # the tests may run under nohup
cli.main("configs")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert done.returncode == -getattr(signal, name), done.stderr
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_an_interrupt_in_a_callback_still_ends_the_command():
    program = """
import gc, signal, time
from jaxcap.commands import cli, configs
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may ignore it
def callback(*_):
    gc.callbacks.remove(callback)
    signal.raise_signal(signal.SIGINT)
def run(*_):
    gc.callbacks.append(callback)
    gc.collect()
    for _ in range(1000):
        time.sleep(0.1)
    return 0
configs.run = run
cli.main("configs")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_callbacks_of_a_checkpoint_that_failed_print_nothing():
    printed = []
    hook = cli.unraisable_hook(printed.append)
    for message in ("Event loop is closed", "another"):
        error = RuntimeError(message)
        hook(SimpleNamespace(exc_type=RuntimeError, exc_value=error))
    assert [str(each.exc_value) for each in printed] == ["another"]


def test_a_folder_that_disappears_meanwhile_is_a_message(tmp_path):
    page = tmp_path / "out" / "page.html"
    page.parent.mkdir()
    program = f"""
import shutil
from pathlib import Path
from jaxcap.commands import cli, configs
from jaxcap.files import replacing
def run(*_):
    with replacing(Path({str(page)!r})) as beside:
        shutil.rmtree(beside.parent)
configs.run = run
cli.main("configs")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {page}: No such file or directory. It or its folder was")


def test_names_of_files_are_utf8_in_an_ascii_locale(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxcap", "data", "--data-dir", "ü"],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert "no prepared data sets in ü;" in done.stdout + done.stderr


def test_the_list_of_commands_repeats_their_descriptions():
    for line in re.findall(r"^  \w+ +.+$", cli.describe_commands(), re.MULTILINE):
        name, about = line.split(maxsplit=1)
        arguments = getattr(
            importlib.import_module(f"jaxcap.commands.{name}"), f"{name.title()}Arguments"
        )
        assert arguments.__doc__.partition("\n")[0] == about


# Results


def test_prepare(command, monkeypatch, tmp_path):
    from jaxcap.datasets import shapes

    monkeypatch.setattr(shapes, "NUM_SCENES", {"train": 3, "dev": 2, "test": 1})
    first = command(cli.main, "prepare", "shapes", "--data-dir", tmp_path / "data")
    assert (first.code, first.out) == (0, "")
    assert "prepared train 3, dev 2, test 1" in first.err
    again = command(cli.main, "prepare", "shapes", "--data-dir", tmp_path / "data")
    assert again.code == 0
    assert "prepared already" in again.err


@pytest.mark.slow
def test_train_resumes_and_prints_the_next_commands(
    command, config_file, tiny_run, tiny_data, tmp_path
):
    workdir = shutil.copytree(tiny_run, tmp_path / "a [red] run")
    outcome = command(TRAIN, config_file, "--workdir", workdir)
    assert (outcome.code, outcome.out) == (0, "")
    assert f"Training in {workdir} on" in outcome.err
    assert "Resuming from step 30" in outcome.err
    assert f"  jaxcap evaluate '{workdir}' --split dev --data-dir {tiny_data}\n" in outcome.err


@pytest.mark.slow
def test_evaluate_writes_into_the_run(command, tiny_run, tiny_data, tmp_path):
    directory = shutil.copytree(tiny_run, tmp_path / "run")
    options = ["--data-dir", tiny_data, "--split", "dev[:5]", "--beam-size", 1]
    outcome = command(EVALUATE, directory, *options)
    assert (outcome.code, outcome.out) == (0, "")
    assert "CIDEr-D" in outcome.err
    for name in ("predictions-dev[:5].json", "metrics-dev[:5].json", "report-dev[:5].html"):
        assert (directory / name).is_file()
        assert f"wrote {directory / name}\n" in outcome.err
    protocol = json.loads((directory / "metrics-dev[:5].json").read_text())["protocol"]
    assert protocol["images"] == 5
    assert protocol["decoding"].startswith("beam 1,")
    assert "--split 'dev[:5]' --beam-size 1" in protocol["command"]


@pytest.mark.slow
def test_evaluate_judges_a_published_model_on_other_data(command, tiny_run, tiny_data, tmp_path):
    model = tmp_path / "m.safetensors"
    assert command(cli.main, "export", tiny_run, model).code == 0
    own = shutil.copytree(tiny_data / "shapes", tmp_path / "data" / "own")
    info = own / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"shapes"', '"own"'))
    for path in own.rglob("shapes-*"):
        path.rename(path.with_name(path.name.replace("shapes-", "own-")))
    options = ["--data", "own", "--data-dir", tmp_path / "data", "--split", "test"]
    outcome = command(EVALUATE, "--model", model, *options)
    assert outcome.code == 0, outcome.err
    written = tmp_path / "evaluations" / "m" / "metrics-own-test.json"
    assert json.loads(written.read_text())["protocol"]["data"] == "own"


def test_evaluate_leaves_no_folder_where_it_cannot_start(command, tmp_path):
    model = tmp_path / "bad.safetensors"
    model.write_bytes(bytes(9))
    assert command(EVALUATE, model).code == 2
    assert sorted(tmp_path.iterdir()) == [model]


@pytest.mark.slow
def test_evaluate_finds_data_in_the_users_own_folder(
    command, tiny_run, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny_data))
    directory = shutil.copytree(tiny_run, tmp_path / "run")
    outcome = command(EVALUATE, directory, "--split", "dev[:2]")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("name", ["evaluate", "replay"])
def test_the_data_folder_of_a_strangers_run_is_not_opened(
    command, tiny_run, tiny_data, tmp_path, name
):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    stranger = shutil.copytree(tiny_data, run / "data")
    config = json.loads((run / "config.json").read_text())
    config["data"]["data_dir"] = str(stranger)
    (run / "config.json").write_text(json.dumps(config))
    path = run / "diverged-1.npz" if name == "replay" else run
    outcome = command(cli.main, name, path)
    assert outcome.code == 2
    assert f"names the data folder {stranger}" in outcome.err
    assert f"If you trust it, give --data-dir {stranger}" in outcome.err


def test_caption_prints_only_captions_to_standard_output(command, tiny_run, tmp_path):
    folder = tmp_path / "Fotos äöü"
    names = ["b.PNG", "a.jpg", "deep/er/c.webp", "two words.png", "東京.png"]
    for name in names:
        png(folder / name)
    (folder / "notes.txt").write_text("no image by its name")
    single = png(tmp_path / "no_suffix")
    outcome = command(cli.main, "caption", folder, single, "--model", tiny_run)
    assert outcome.code == 0
    printed = [line.split("\t") for line in outcome.out.splitlines()]
    assert [path for path, _ in printed] == [
        *sorted(str(folder / name) for name in names),
        str(single),
    ]
    assert len({caption for _, caption in printed}) == 1  # all the same picture


@pytest.mark.slow
def test_caption_of_good_and_bad_images(command, tiny_run, tmp_path):
    good = png(tmp_path / "good.png")
    bad = tmp_path / "bad.jpg"
    bad.write_text("text")
    outcome = command(cli.main, "caption", bad, good, "--model", tiny_run, "--json")
    assert outcome.code == 1
    first, second = map(json.loads, outcome.out.splitlines())
    assert first["image"] == str(bad)
    assert first["captions"] == []
    assert first["error"].startswith(f"{bad}: ")
    assert second["image"] == str(good)
    assert "error" not in second
    assert len(second["captions"]) == 2
    assert set(second["captions"][0]) == {"caption", "log_prob", "confidence"}
    assert f"skipped: {bad}: " in outcome.err
    assert "1 of 2 images could not be captioned." in outcome.err
    plain = command(cli.main, "caption", bad, good, "--model", tiny_run)
    assert plain.code == 1
    assert plain.out.startswith(f"{good}\t")
    assert plain.out.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="such names are impossible there")
@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb\tc.png", r"a\nb\tc.png"), (os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png")],
)
def test_a_file_name_stays_on_one_line(command, tiny_run, tmp_path, name, shown):
    path = png(tmp_path / name)
    plain = command(cli.main, "caption", path, "--model", tiny_run)
    assert plain.code == 0
    assert plain.out.count("\n") == plain.out.count("\t") == 1
    assert plain.out.startswith(f"{tmp_path / shown}\t")
    as_json = command(cli.main, "caption", path, "--model", tiny_run, "--json")
    assert json.loads(as_json.out)["image"] == str(path)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="such names are impossible there")
def test_file_names_do_not_control_a_terminal(command, tiny_run, tmp_path, monkeypatch):
    good, bad = png(tmp_path / "\u202egnp\x9b2J.png"), tmp_path / "\x9b31m\u202e.jpg"
    bad.write_text("text")
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda value=is_terminal: value)
        outcome = command(cli.main, "caption", good, bad, "--model", tiny_run)
        assert (r"\u202egnp\u009b2J.png" in outcome.out) == is_terminal
        assert ("\u202egnp\x9b2J.png" in outcome.out) != is_terminal
        assert r"\u009b31m\u202e.jpg" in outcome.err
        assert "\x9b" not in outcome.err
        assert "\u202e" not in outcome.err


# In a separate process


def environment() -> dict[str, str]:
    import jax

    cache = str(jax.config.jax_compilation_cache_dir)
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_NUM_CPU_DEVICES": "2"}


def python(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, *map(str, arguments)],
        **{"capture_output": True, "text": True, "env": environment(), "cwd": ROOT} | options,
    )


def test_the_scripts_start_quickly(tmp_path):
    result = python(ROOT / "train.py", tmp_path / "none.py", cwd=tmp_path)
    assert result.returncode == 2
    assert re.fullmatch(r"error: .*none\.py: no such configuration file\. Give .*\n", result.stderr)
    # Help needs no module that takes seconds to import.
    code = (
        "import sys, jaxcap.commands.cli; print([m for m in ('jax', 'grain') if m in sys.modules])"
    )
    assert python("-c", code).stdout == "[]\n"


def test_a_warning_is_one_line():
    code = (
        "import warnings, jaxcap.commands.cli as cli, jaxcap.commands.configs as command\n"
        "command.run = lambda *_: warnings.warn('run\\n\\u202e: damaged') or 0\n"
        "cli.main('configs')"
    )
    assert python("-c", code).stderr == "warning: run\\n\\u202e: damaged\n"


@pytest.mark.slow
def test_a_closed_pipe_and_a_full_disk(tiny_run, tmp_path):
    for number in range(40):
        png(tmp_path / f"{number:02}.png")
    arguments = ["-c", MAIN, "caption", tmp_path, "--model", tiny_run]
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as `| head -0` does
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            result = python(*arguments, stdout=full, capture_output=False, stderr=-1)
        assert result.returncode == 2
        assert "No space left on device" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_page_beyond_the_limit_of_a_file_is_named(tmp_path):
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a dog\n")
    score = f"{sys.executable} -m jaxcap score captions.csv captions.csv --report page.html"
    result = subprocess.run(
        ["bash", "-c", f"ulimit -f 1; trap '' XFSZ; {score}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        # Python would leave modules cut off in its cache.
        env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert result.returncode == 2
    assert "error: page.html: File too large. Raise the limit of this shell" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.csv"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("os.replace('photo.png', 'folder')", "Is a directory"),
        ("os.mkdir('photo.png/new')", "Not a directory"),
        ("os.mkdir('folder')", "File exists"),
        ("os.rmdir('/')", "Device or resource busy"),
        ("os.rename('folder', 'folder/within')", "Invalid argument"),
    ],
)
def test_errors_of_files_end_with_a_message(tmp_path, what, said):
    png(tmp_path / "photo.png")
    (tmp_path / "folder").mkdir()
    code = (
        "import os, jaxcap.commands.cli as cli, jaxcap.commands.configs as command\n"
        f"command.run = lambda *_: {what}\n"
        "cli.main('configs')"
    )
    result = python("-c", code, cwd=tmp_path)
    assert result.returncode == 2
    assert re.fullmatch(rf"error: (photo\.png|folder|/).*: {said}\.( .*\.)?\n", result.stderr)


@pytest.mark.slow
def test_a_name_that_no_file_has_ends_with_a_message(tmp_path):
    png(tmp_path / "photo.png")
    arguments = ["caption", "photo.png", "--model", "x" * 5000]
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: xxx")
    assert done.stderr.endswith("xxx: File name too long. Give a shorter name.\n")
