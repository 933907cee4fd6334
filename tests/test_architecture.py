"""The plan of the house (docs/architecture.md): what imports what, and where files are."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From top to bottom. A module may import from its own layer and the layers below.
LAYERS = (
    {"__main__"},
    {"commands"},
    {"training"},
    {"evaluation", "serving"},
    {"report", "scoring"},
    {"batch", "datasets"},
    {"caption_files"},
    {"captioning"},
    {"storage", "training.step"},
    {"data", "model", "search", "devices"},
    {"text"},
    {"metrics"},
    {"config"},
    {"files"},
    {"messages"},
)
HEIGHT = {name: -i for i, layer in enumerate(LAYERS) for name in layer}
LIBRARY = sorted((ROOT / "jaxcap").rglob("*.py"))
MODULES = [path for path in LIBRARY if path.parent.name != "jaxcap" or path.stem != "__init__"]


def _imports(path: Path) -> set[str]:
    """Return the full names that a file imports anywhere; `from a import b` gives `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _part(path: Path) -> str:
    """Return the part of the library that a file belongs to: `data` for `jaxcap/data/images.py`."""
    return _part_of_name(".".join(path.relative_to(ROOT).with_suffix("").parts))


def _part_of_name(name: str) -> str:
    """Return the part of a module; `training.step` is a part of its own."""
    parts = name.removeprefix("jaxcap.").split(".")
    return "training.step" if parts[:2] == ["training", "step"] else parts[0]


def _parts_imported(path: Path) -> set[str]:
    return {_part_of_name(name) for name in _imports(path) if name.startswith("jaxcap.")}


def _packages_imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imports(path)}


def test_imports_are_found_at_any_level(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import a.b as c, d\ndef f():\n    from jaxcap.e import g\n")
    assert _imports(path) == {"a.b", "d", "jaxcap.e.g"}
    assert _parts_imported(path) == {"e"}


def test_every_module_has_a_layer() -> None:
    assert len(MODULES) > 30
    assert {_part(path) for path in MODULES} == set(HEIGHT)


def test_no_modules_import_each_other() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    imports = {
        name: {whole for found in _imports(path) for whole in (found, found.rpartition(".")[0])}
        & names.keys()
        for name, path in names.items()
    }
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT / "jaxcap")))
def test_imports_run_downward(path: Path) -> None:
    part = _part(path)
    upward = {other for other in _parts_imported(path) if HEIGHT[other] > HEIGHT[part]}
    assert not upward, f"{path} imports {upward} from a layer above"


@pytest.mark.parametrize("part", ["search", "metrics", "training.step"])
def test_pure_parts_do_not_import_the_model(part: str) -> None:
    for path in MODULES:
        if _part(path) == part and (part != "training.step" or path.stem == "losses"):
            assert _parts_imported(path) <= {part, "messages", "files", "text"}
            assert not any(name.startswith("jaxcap.messages.progress") for name in _imports(path))
            assert not _packages_imported(path) & {"flax", "optax"}


def test_scoring_imports_only_files_and_metrics() -> None:
    """Scoring works with the captions of any captioner."""
    for path in MODULES:
        if _part(path) == "scoring":
            assert _parts_imported(path) <= {
                "scoring",
                "caption_files",
                "metrics",
                "messages",
                "files",
            }


@pytest.mark.parametrize("part", ["metrics", "scoring", "report", "config", "text", "messages"])
def test_some_parts_do_not_import_jax(part: str) -> None:
    for path in MODULES:
        if _part(path) == part:
            assert not _packages_imported(path) & {"jax", "jaxlib", "flax", "optax"}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_other_framework_is_imported(path: Path) -> None:
    assert not _packages_imported(path) & {"tensorflow", "torch", "torchvision", "keras"}


def test_importing_jaxcap_is_light() -> None:
    """`jaxcap --help` must not wait for JAX."""
    program = "import jaxcap, sys; print(sorted({'jax', 'numpy', 'tensorflow'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_importing_all_of_jaxcap_loads_neither_tensorflow_nor_torch() -> None:
    """Other libraries do not load them either, whether or not they are installed."""
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


# Files with one name, and the subject that they share.
SHARED_NAMES = {
    "base.py": "the interface of decoders, and that of encoders",
    "checks.py": "what a room refuses",
    "export.py": "the command, and the export itself",
    "prepare.py": "the command, and the preparation itself",
    "registry.py": "the names of decoders, of encoders, and of formats of data sets",
}


def test_files_with_one_name_share_a_subject() -> None:
    names = [path.name for path in MODULES if path.stem != "__init__"]
    assert {name for name in names if names.count(name) > 1} <= set(SHARED_NAMES)


def test_tests_mirror_the_library() -> None:
    library = {str(path.parent.relative_to(ROOT / "jaxcap")) for path in LIBRARY}
    tests = {
        str(path.parent.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("*.py")
    }
    # It is tested as one, in tests/datasets/test_inspection.py.
    assert library - tests <= {"datasets/inspection"}
    assert tests - library <= {"benchmarks", "fuzz", "tour"}


def test_no_private_module_of_jax_is_imported() -> None:
    private = {
        str(path.relative_to(ROOT / "jaxcap"))
        for path in LIBRARY
        if any(name.startswith(("jax._src", "jaxlib")) for name in _imports(path))
    }
    assert not private


INNER = {
    *("model", "search", "training.step", "data", "text", "config", "metrics", "messages", "files"),
}


@pytest.mark.parametrize("part", ["model", "search", "training.step"])
def test_the_core_imports_none_of_the_outer_rooms(part: str) -> None:
    for path in MODULES:
        if _part(path) == part:
            assert _parts_imported(path) <= INNER, path


# Methods that named tuples and notebooks make public under a name with an underscore.
NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make", "_repr_html_"}
# The private names that tests still reach for. Make them public or test through what is; add none.
PRIVATE = {
    ("captioning/test_export.py", "_texts"),
    ("captioning/test_packaged_model.py", "_about"),
    ("model/encoders/cpu/test_parts.py", "_PART"),
    ("model/encoders/cpu/test_winograd.py", "_F2"),
    ("model/encoders/cpu/test_winograd.py", "_F4"),
    ("model/encoders/cpu/test_winograd.py", "_for_images"),
    ("model/encoders/cpu/test_winograd.py", "_for_kernels"),
    ("model/encoders/test_conv.py", "_IMAGES"),
    ("storage/test_program_cache.py", "_TRACED"),
    ("storage/test_program_cache.py", "_code"),
    ("storage/test_published.py", "_digest"),
    ("training/test_finetuning.py", "_PART"),
    ("training/test_seen.py", "_thread"),
}


def _private_names(path: Path) -> set[str]:
    """Private attributes that a file reads, calls or replaces, of jaxcap's or unknown objects."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    foreign, names = {"self", "cls"}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.asname or alias.name.split(".")[0] for alias in node.names]
            foreign |= {name for name in modules if name != "jaxcap"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxcap"):
            names |= {alias.name for alias in node.names}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=owner, attr=name) if ast.unparse(owner) not in foreign:
                names.add(name)
            case ast.Call(
                func=ast.Attribute(attr="setattr"), args=[owner, ast.Constant(value=str(name)), *_]
            ) if ast.unparse(owner) not in foreign:
                names.add(name)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_private_names_are_found(tmp_path: Path) -> None:
    path = tmp_path / "test_module.py"
    path.write_text(
        "import os\nfrom jaxcap.a import _b, c\nos._exit\nc._d\nc.__name__\nself._e\n"
        "monkeypatch.setattr(c, '_f', 1)\nmonkeypatch.setattr(os, '_g', 1)\n"
    )
    assert _private_names(path) == {"_b", "_d", "_f"}


def test_tests_touch_no_other_private_names() -> None:
    found = {
        (str(path.relative_to(ROOT / "tests")), name)
        for path in (ROOT / "tests").rglob("*.py")
        for name in _private_names(path) - NAMED_TUPLE
    }
    foreign = {  # of PyTorch's objects
        ("benchmarks/test_gpu.py", "_global_params"),
        ("model/encoders/weights/test_torch_files.py", "_metadata"),
    }
    assert found - foreign - PRIVATE == set(), "test through public names"
    assert PRIVATE - found == set(), "no longer needed in PRIVATE"
