"""Every file and link that the documentation names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
FOLDERS = "benchmarks|configs|docs|examples|jaxcap|tests"
# Configurations that a reader is asked to write.


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _missing_links(page: Path) -> list[str]:
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            missing.append(target)
    return missing


def _missing_paths(text: str) -> list[str]:
    """Return the paths below the folders of the repository, and those in `jaxcap/`, that fail."""
    below_root = set(re.findall(rf"(?<![\w/.~$-])((?:{FOLDERS})/[\w./*-]*\w)", text))
    quoted = {path.strip("/") for path in re.findall(r"`([a-z_]+/[\w/*]+\.(?:py|md|html))`", text)}
    return sorted(
        path
        for path in below_root | quoted
        if not list(ROOT.glob(path)) and not list((ROOT / "jaxcap").glob(path))
    )


def test_missing_files_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](no.md) [y](#a-b) [z](#c) [page](page.md#a-b) [w](https://a.b)\n")
    assert _missing_links(page) == ["no.md", "#c"]
    text = "run `jaxcap/__main__.py`, docs/no.md, `model/captioner.py` and `tests/model/test_*.py`"
    assert _missing_paths(text) == ["docs/no.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_exist(page: Path) -> None:
    assert not _missing_links(page)
    assert not _missing_paths(page.read_text("utf-8"))


def test_the_tree_of_the_architecture_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    tree = re.search(r"^```\n(train\.py.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    folders: list[str] = []
    for line in tree.splitlines():
        names = re.match(r"((?: *[\w.]+(?:\.py|/)(?= |$))+)", line)
        if names is None:
            continue  # the second line of a description
        depth = (len(line) - len(line.lstrip())) // 2
        for name in names[1].split():
            path = ROOT.joinpath(*folders[:depth], name)
            assert path.exists(), path
            if name.endswith("/"):
                folders[depth:] = [name]


def test_packages_of_the_architecture_are_complete() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    packages = {path.parent.name for path in (ROOT / "jaxcap").glob("*/__init__.py")}
    assert [name for name in sorted(packages) if f"\n  {name}/" not in page] == []


def test_the_layers_of_the_architecture_are_those_of_its_test() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    listed = re.search(r"checks every import:\n\n(.*?)\n\n", page, re.DOTALL)[1]
    layers = [set(re.findall(r"`([\w.]+)`", layer)) for layer in listed.split("→")]
    program = (ROOT / "tests" / "test_architecture.py").read_text("utf-8")
    literal = re.search(r"^LAYERS = (\(.*?^\))", program, re.MULTILINE | re.DOTALL)[1]
    assert layers == list(ast.literal_eval(literal))
