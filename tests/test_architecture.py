"""The plan of the house (docs/architecture.md): imports run downward only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down. A module may import from its own layer and from those below it.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"training"},
    {"evaluation"},
    {"report", "scoring"},
    {"datasets"},
    {"caption_files"},
    {"captioning"},
    {"storage", "training.step"},
    {"data", "model", "search", "devices"},
    {"text"},
    {"metrics"},
    {"config"},
    {"errors", "files", "progress", "pretrained"},
)
HEIGHT = {name: -i for i, layer in enumerate(LAYERS) for name in layer}
LIBRARY = sorted((ROOT / "jaxcap").rglob("*.py"))
MODULES = [path for path in LIBRARY if path.parent.name != "jaxcap" or path.stem != "__init__"]


def _imports(path: Path) -> set[str]:
    """Full names of all that a file imports, wherever in it; `from a import b` gives `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _part(path: Path) -> str:
    """The part of the library that a file belongs to: `jaxcap/data/images.py` to `data`."""
    return _part_of_name(".".join(path.relative_to(ROOT).with_suffix("").parts))


def _part_of_name(name: str) -> str:
    """`jaxcap.training.step.losses` to `training.step`, which is a part of its own."""
    parts = name.removeprefix("jaxcap.").split(".")
    return "training.step" if parts[:2] == ["training", "step"] else parts[0]


def _parts_imported(path: Path) -> set[str]:
    return {_part_of_name(name) for name in _imports(path) if name.startswith("jaxcap.")}


def _packages_imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imports(path)}


def test_the_walk_sees_imports_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import a.b as c, d\ndef f():\n    from jaxcap.e import g\n")
    assert _imports(path) == {"a.b", "d", "jaxcap.e.g"}
    assert _parts_imported(path) == {"e"}


def test_every_module_has_its_layer() -> None:
    assert len(MODULES) > 30
    assert {_part(path) for path in MODULES} == set(HEIGHT)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT / "jaxcap")))
def test_imports_run_downward(path: Path) -> None:
    part = _part(path)
    upward = {other for other in _parts_imported(path) if HEIGHT[other] > HEIGHT[part]}
    assert not upward, f"{path} imports {upward} from a layer above"


@pytest.mark.parametrize("part", ["search", "metrics", "training.step"])
def test_some_parts_know_no_model(part: str) -> None:
    for path in MODULES:
        if _part(path) == part and (part != "training.step" or path.stem == "losses"):
            assert _parts_imported(path) <= {part, "errors", "files"}
            assert not _packages_imported(path) & {"flax", "optax"}


def test_scoring_knows_files_and_metrics_only() -> None:
    """It scores the captions of any captioner."""
    for path in MODULES:
        if _part(path) == "scoring":
            assert _parts_imported(path) <= {
                "scoring",
                "caption_files",
                "metrics",
                "errors",
                "files",
            }


@pytest.mark.parametrize("part", ["metrics", "scoring", "report", "config", "text", "errors"])
def test_some_parts_need_no_jax(part: str) -> None:
    for path in MODULES:
        if _part(path) == part:
            assert not _packages_imported(path) & {"jax", "jaxlib", "flax", "optax"}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_other_framework_is_imported(path: Path) -> None:
    assert not _packages_imported(path) & {"tensorflow", "torch", "torchvision", "keras"}


def test_importing_jaxcap_is_light() -> None:
    """`jaxcap --help` need not wait for JAX."""
    program = "import jaxcap, sys; print(sorted({'jax', 'numpy', 'tensorflow'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_importing_all_of_jaxcap_loads_neither_tensorflow_nor_torch() -> None:
    """Not through another library either, whether they are installed or not."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in LIBRARY
    ]
    program = f"""
import importlib, importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "torch"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
for name in {names}:
    importlib.import_module(name)
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"tensorflow", "torch", "jax"}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['jax']"
