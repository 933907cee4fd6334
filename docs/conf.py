"""Build the site: `make docs`, or `sphinx-build docs build/site`.

The tour's notebooks are executed, and the reference is read off the docstrings. Nothing that a page
needs comes from another host.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import typing
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from jaxcap import __version__

typing.GENERATING_DOCUMENTATION = "jaxcap"  # jaxtyping then writes `Float[Array, "B P D"]` alone
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # XLA complains of slow compilation on a busy machine

_get_type_hints = typing.get_type_hints


def _get_plain_type_hints(*args: Any, include_extras: bool = False, **kwargs: Any) -> Any:
    """Leave out what `Annotated` adds for checks of options and for the command line."""
    return _get_type_hints(*args, **kwargs)


typing.get_type_hints = _get_plain_type_hints

DOCS = Path(__file__).parent
ROOT = DOCS.parent

# ---- the site --------------------------------------------------------------------------------

project = "jaxcap"
author = "the authors of jaxcap"
version = release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"jaxcap {version}"
html_copy_source = html_show_copyright = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"

# ---- pages -----------------------------------------------------------------------------------

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4  # the anchors that code hosts give
nb_execution_mode = "cache"
nb_execution_timeout = 900  # seconds of the clock, a cell
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "warn"
logging.getLogger("traitlets").setLevel(logging.WARNING)  # else every notebook is announced

# ---- reference -------------------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_attr_annotations = False  # the signature has them
# Named in signatures, not spelled out.
_ALIASES = ("Choose", "ImageLike", "Processor", "StepFunction", "optax.Schedule")
autodoc_type_aliases = {name: name for name in _ALIASES}
autodoc_default_options = {"members": True, "special-members": "__call__", "show-inheritance": True}
default_role = "literal"  # for code that spans lines
maximum_signature_line_length = 80
python_use_unqualified_type_names = True


def _write_reference(app: Sphinx) -> None:
    """Write a page for each package: what it exports, the packages in it, and its modules."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    packages = [file.parent for file in sorted((ROOT / "jaxcap").rglob("__init__.py"))]
    names = {package: ".".join(package.relative_to(ROOT).parts) for package in packages}
    for page in folder.glob("*.rst"):
        if page.stem not in names.values():
            page.unlink()
    for package, name in names.items():
        sources = {file.stem: file.read_text("utf-8") for file in sorted(package.glob("[a-z]*.py"))}
        lines = [name, "=" * len(name), "", f".. automodule:: {name}", ""]
        package_module = importlib.import_module(name)
        for exported in getattr(package_module, "__all__", ()):
            member = getattr(package_module, exported)
            home = str(getattr(member, "__module__", ""))
            if not home.startswith("jaxcap"):  # a constant or an alias does not know its module
                defined = re.compile(rf"^{exported}\b.* = ", re.MULTILINE)
                found = [module for module, text in sources.items() if defined.search(text)]
                home = ".".join([name, *found[:1]])
            if home != name and not isinstance(member, ModuleType):
                lines.append(f"- :py:obj:`{name}.{exported} <{home}.{exported}>`")
        lines += ["", ".. toctree::", "   :maxdepth: 1", ""]
        lines += [f"   {names[inner]}" for inner in packages if inner.parent == package]
        for module in sources:
            lines += ["", module, "-" * len(module), "", f".. automodule:: {name}.{module}"]
        page, text = folder / f"{name}.rst", "\n".join(lines) + "\n"
        if not page.exists() or page.read_text("utf-8") != text:  # else Sphinx would read it again
            page.write_text(text, "utf-8")


def _translate_docstring(
    app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]
) -> None:
    """Translate a docstring into reStructuredText: `code`, and blocks that are indented."""
    above, literal = "", False  # the last line that is not empty
    for i, line in enumerate(lines):
        indented = line.startswith("    ")
        if indented and i and not lines[i - 1] and above[:1] not in ("", " "):
            lines[i - 1], literal = "\n::\n", True
        literal = literal and (indented or not line)
        above = line or above
        if not literal and not line.startswith((">>> ", "... ")):
            parts = re.split(r"(?<!`)`([^`]+)`(?!`)", line)
            parts[::2] = [re.sub(r"([*|]|_\b)", r"\\\1", text) for text in parts[::2]]
            parts[::2] = [re.sub(r"(?<=\S) {3,}(?=\S)", " · ", text) for text in parts[::2]]
            parts[1::2] = [f"``{code}``\\ " for code in parts[1::2]]
            lines[i] = "".join(parts)
    if lines[:1] == ["Call self as a function."]:  # Python's, where a method has no docstring
        lines.clear()
    if what in ("attribute", "data", "property"):
        lines.insert(0, "\\ ")  # napoleon would take the words before a colon for a type
    lines[:] = "\n".join(lines).split("\n")


def _skip(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Document a name once, in its module, whether it has a docstring or not."""
    module, home = app.env.current_document.autodoc_module, getattr(member, "__module__", None)
    if what == "class":  # Linen's text, and fields: defaults, members of tuples
        foreign = callable(member) and not str(home).startswith("jaxcap")
        value = isinstance(member, type) or type(member).__name__ == "_tuplegetter"
        if name == "setup" or foreign or value:
            return True
        method = isinstance(member, FunctionType | property)
        return False if method and not name.startswith("_") else None
    if home != module:
        return True if str(home).startswith("jaxcap.") else None
    return False if callable(member) and not name.startswith("_") else None


def _tidy_signature(
    app: Sphinx, what: str, name: str, member: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Hide `parent` and `name`, which Linen adds to every module, and how Sphinx keeps aliases.

    What is left is Python, or Sphinx could not put each argument on a line of its own.
    """
    if not signature:
        return None
    signature = re.sub(r"(, )?parent: .*_Sentinel.*", ")", signature)
    signature = signature.replace("<factory>", "...")
    signature = re.sub(r"<(?:class|function) '?(?:\w+\.)*(\w+)'?[^>]*>", r"\1", signature)
    short = re.compile(
        r"~(?:(?:collections\.abc|pathlib|typing)\.)?|TypeAliasForwardRef\('([\w.]+)'\)"
    )
    return short.sub(r"\1", signature), short.sub(r"\1", returns or "")


def _leave_out_long_values(app: Sphinx, doctree: nodes.document) -> None:
    """Name a constant without its value, such as a table, if that takes more than a line."""
    for value in list(doctree.findall(addnodes.desc_annotation)):
        if value.astext().strip().startswith("=") and len(value.astext()) > 80:
            value.parent.remove(value)


# ---- links -----------------------------------------------------------------------------------


def _has_entry(path: Path) -> bool:
    """Return whether the file is a module with public functions or classes."""
    public = re.compile(r"^(class|def) [^_]", re.MULTILINE)
    return path.suffix == ".py" and public.search(path.read_text("utf-8")) is not None


def _link_files(app: Sphinx, doctree: nodes.document) -> None:
    """Resolve links to files outside `docs/`, relative to the file that contains them.

    A module of the reference becomes its highlighted source, a page of the root the page that
    includes it, any other file a copy. A folder, which has no page, is no link.
    """
    kinds = addnodes.pending_xref, addnodes.download_reference
    for link in [node for kind in kinds for node in doctree.findall(kind)]:
        path = Path(str(link.source)).parent.joinpath(str(link["reftarget"])).resolve()
        if link["reftype"] != "myst" or not path.exists() or path.is_relative_to(DOCS):
            continue
        if path.is_dir():
            link.replace_self(link.children)
        elif path.is_relative_to(ROOT / "jaxcap") and _has_entry(path):
            module = path.relative_to(ROOT).with_suffix("")
            page = "/".join(["_modules", *(part for part in module.parts if part != "__init__")])
            uri = app.builder.get_relative_uri(app.env.current_document.docname, page)
            link.replace_self(nodes.reference("", "", *link.children, refuri=uri))
        elif path.parent == ROOT and path.suffix == ".md":
            page = {"README": "index"}.get(path.stem, path.stem.lower())
            link["refdomain"], link["reftarget"], link["reftargetid"] = "doc", page, None
        else:
            target = f"/{os.path.relpath(path, DOCS)}"
            copied = addnodes.download_reference("", "", *link.children, reftarget=target)
            link.replace_self(copied)


def _drop_missing_sources(app: Sphinx) -> tuple[()]:
    """Leave modules without a page, such as `builtins`, out of the list of sources."""
    modules = getattr(app.env, "_viewcode_modules", {})  # none without viewcode
    app.env._viewcode_modules = {name: entry for name, entry in modules.items() if entry}
    return ()


# ---- equations -------------------------------------------------------------------------------


def _write_mathml(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write an equation as MathML, which browsers draw without a library."""
    block = isinstance(node, nodes.math_block)
    mathml = latex2mathml.tex2mathml(node.astext(), as_block=block)
    # TeX's thin space between a function and an argument without parentheses.
    mathml = re.sub(r"<mo>&ApplyFunction;</mo>(?!\s*<mo)", '<mspace width="0.17em"/>', mathml)
    translator.body.append(f'<div class="equation">{mathml}</div>' if block else mathml)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (_write_mathml, None), (_write_mathml, None))
    app.connect("builder-inited", _write_reference)
    app.connect("autodoc-process-docstring", _translate_docstring, priority=100)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _tidy_signature)
    app.connect("doctree-read", _leave_out_long_values)
    app.connect("doctree-read", _link_files, priority=100)  # before copies are collected
    app.connect("html-collect-pages", _drop_missing_sources, priority=100)  # before viewcode's
