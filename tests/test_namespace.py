"""What a user of the library finds after `import jaxcap`, and what a type checker sees."""

from __future__ import annotations

import os
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import jaxcap

ROOT = Path(__file__).parents[1]

SCRIPT = """
from pathlib import Path

import jaxcap

model = jaxcap.load("runs/flickr8k")
for result in model.with_search(beam_size=5).caption([Path("photo.jpg")]):
    text: str = result.captions[0].text
    reveal_type(result)
scores: dict[str, float] = jaxcap.metrics.evaluate_captions({1: "a dog"}, {1: ["a dog"]}).corpus
jaxcap.config.Config(train=jaxcap.config.TrainConfig(epochs=3))
model.caption(["photo.jpg"], batch_size="8")
"""


def _python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_dir_lists_every_public_name() -> None:
    assert set(jaxcap.__all__) <= set(dir(jaxcap))
    for name in jaxcap.__all__:
        assert getattr(jaxcap, name) is not None


def test_every_package_of_the_library_is_listed() -> None:
    """But for those that only the commands and the package itself use."""
    packages = {path.parent.name for path in Path(jaxcap.__path__[0]).glob("*/__init__.py")}
    assert packages - set(jaxcap.__all__) == {"commands", "files", "messages", "serving"}


def test_help_shows_the_public_names() -> None:
    shown = pydoc.plain(pydoc.render_doc(jaxcap))
    for part in ("class LoadedModel", "load(", "class InputError", "metrics (package)"):
        assert part in shown


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("jaxcap.metrics.bleu.__name__", "bleu"),
        ("jaxcap.search.beam_search.__name__", "beam_search"),
        ("jaxcap.training.train.__name__", "train"),
        ("jaxcap.model.__name__", "jaxcap.model"),
        ("jaxcap.config.Config().train.epochs", "10"),
    ],
)
def test_subpackages_load_on_first_use(expression: str, expected: str) -> None:
    assert _python(f"import jaxcap; print({expression})") == expected


def test_listing_names_loads_nothing() -> None:
    program = "import jaxcap, sys; dir(jaxcap); print({'jax', 'numpy'} & set(sys.modules))"
    assert _python(program) == "set()"


@pytest.mark.parametrize(
    ("start", "most"),
    [
        ("import jaxcap", 40),
        ("sys.argv = ['jaxcap', '--help']; from jaxcap.commands import cli; cli.main()", 40),
        ("sys.argv = ['jaxcap', '--version']; from jaxcap.commands import cli; cli.main()", 40),
    ],
)
def test_a_start_imports_few_modules(start: str, most: int) -> None:
    count = "print(len(set(sys.modules) - before), {'jax', 'numpy', 'rich'} & set(sys.modules))"
    program = f"import sys; before = set(sys.modules)\ntry: {start}\nfinally: {count}"
    modules, heavy = _python(program).splitlines()[-1].split(maxsplit=1)
    assert heavy == "set()"
    assert 0 < int(modules) <= most


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'jaxcap' has no attribute 'metric'"):
        jaxcap.metric  # noqa: B018


def test_an_installation_is_marked_as_typed() -> None:
    assert (Path(jaxcap.__path__[0]) / "py.typed").is_file()


@pytest.mark.slow
def test_a_type_checker_sees_the_types(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        # No configuration: a user's project has none of ours. No dependencies: nothing in the
        # script has their types, and JAX's take ten times as long.
        [
            *(sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent"),
            *("--ignore-missing-imports", "--no-site-packages", "--cache-dir", "cache", script),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        # An editable installation is invisible to mypy, and py.typed with it.
        env=os.environ | {"MYPYPATH": str(ROOT)},
        check=False,
    )
    lines = done.stdout.splitlines()
    revealed = [line for line in lines if "note: Revealed type is" in line]
    assert len(revealed) == 1
    assert revealed[0].endswith('.Captioned"')
    errors = [line for line in lines if ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert 'incompatible type "str"; expected "int"' in errors[0]
