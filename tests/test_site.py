"""The site: a complete reference, and pages that a browser shows whole, without another host.

`make docs` sets JAXCAP_SITE to the site that it built. Otherwise a few pages are built here, and
the tour is not executed.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from inspect import ismodule
from pathlib import Path
from urllib.parse import unquote, urlsplit

import chromium
import pytest
from sphinx.util.inventory import InventoryFile

ROOT = Path(__file__).parents[1]
PAGES = ("index.md", "encoders.md", "tour/05_attention.md", "reference/jaxcap.search.rst")
PHONE = 375  # CSS pixels
BUILT = os.environ.get("JAXCAP_SITE")

pytestmark = pytest.mark.slow


def _build(site: Path, *options: str) -> Path:
    """Build a part of the site; a warning is an error, except where other pages are missing."""
    quiet = "toc,myst.xref_missing,ref.doc"
    settings = ["nb_execution_mode=off", f"suppress_warnings={quiet}", *options]
    command = [sys.executable, "-m", "sphinx", "-qWE", "-d", str(site.with_suffix(".doctrees"))]
    command += [part for setting in settings for part in ("-D", setting)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, str(ROOT / "docs"), str(site)], env=environment, check=True)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if BUILT:
        return Path(BUILT)
    pages = f"include_patterns={','.join(PAGES)}"
    return _build(tmp_path_factory.mktemp("site") / "site", pages)


class Html(HTMLParser):
    """The anchors of a page, and the addresses that it links to and loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.anchors.add(attributes.get("id") or "")
        if tag == "a" and (link := attributes.get("href")):
            self.links.append(link)
        elif address := attributes.get("src") or (tag == "link" and attributes.get("href")):
            self.loaded.append(address)

    def handle_data(self, data: str) -> None:
        self.text += data


def _public(path: Path) -> Iterator[str]:
    """Yield the names of the functions and classes of a module, and of its classes' methods.

    `setup` is Linen's, for the module itself.
    """
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, functions | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{module}.{node.name}"
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if not isinstance(method, functions) or method.name == "setup":
                    continue
                if method.name[0] != "_":
                    yield f"{module}.{node.name}.{method.name}"


def test_the_reference_has_every_public_name(tmp_path: Path) -> None:
    options = [
        *("include_patterns=reference/*", "root_doc=reference/jaxcap"),
        # No pages of sources, and no index: they take as long as the reference.
        *("extensions=myst_nb,sphinx.ext.autodoc,sphinx.ext.napoleon", "html_use_index=0"),
    ]
    site = Path(BUILT) if BUILT else _build(tmp_path / "site", *options)
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", "/".join)
    entries = {name for kind, names in inventory.items() if kind[:3] == "py:" for name in names}
    modules = sorted(set((ROOT / "jaxcap").rglob("*.py")) - {ROOT / "jaxcap" / "__main__.py"})
    assert [name for path in modules for name in _public(path) if name not in entries] == []
    for file in sorted((ROOT / "jaxcap").rglob("__init__.py")):
        package = ".".join(file.parent.relative_to(ROOT).parts)
        listed = Html(site / "reference" / f"{package}.html").links
        module = importlib.import_module(package)
        names = [n for n in getattr(module, "__all__", ()) if not ismodule(getattr(module, n))]
        assert [n for n in names if not any(link.endswith(f".{n}") for link in listed)] == []
    for page in (site / "reference").glob("*.html"):
        assert re.search(r"<factory>|<class '|<function |~\w+\.", Html(page).text) is None, page


def test_shapes_read_as_in_the_source(site: Path) -> None:
    text = " ".join(Html(site / "reference" / "jaxcap.search.html").text.split())
    assert "step: StepFunction" in text
    assert "logits: Float[Array, 'B N V'], tokens: Int[Array, 'B N T'], time:" in text
    assert "jaxtyping." not in text


def test_links_and_images_exist(site: Path) -> None:
    pages = {path.resolve(): Html(path) for path in site.rglob("*.html")}
    assert len(pages) > len(PAGES)
    for path, page in pages.items():
        for address in [*page.links, *page.loaded]:
            url = urlsplit(address)
            if url.scheme in ("https", "http", "data"):
                assert address in page.links or url.scheme == "data", f"{path}: {address}"
                continue
            if "_modules" in url.path and not BUILT:
                continue  # the source of a module is on the site if the reference names it
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.exists(), f"{path}: {address}"
            if url.fragment and target in pages:
                assert unquote(url.fragment) in pages[target].anchors, f"{path}: {address}"


def test_pages_fit_a_phone_and_ask_no_other_host(site: Path, page: chromium.Page) -> None:
    for path in sorted(site.rglob("*.html")):
        page.window(PHONE, 800)
        page.open(path)
        assert {urlsplit(address).scheme for address in page.requests} <= {"file", "data"}, path
        assert not page.complaints, path
        width = page["document.documentElement.scrollWidth"]
        assert width <= PHONE, f"{path}: {width} pixels wide"
        images = "[...document.images].filter(i => i.loading != 'lazy' && !i.naturalWidth)"
        assert page[f"{images}.map(i => i.src)"] == [], path


def test_the_search_finds_a_function(site: Path, page: chromium.Page) -> None:
    page.open(f"{(site / 'search.html').resolve().as_uri()}?q=beam_search")
    found = "[...document.querySelectorAll('ul.search a')].map(a => a.href)"
    deadline = time.monotonic() + page.timeout
    while not page[found] and time.monotonic() < deadline:
        page.settle()
    assert any("jaxcap.search.html" in address for address in page[found])
