"""The pages of a server: one for photographs, and one that describes the addresses."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from html import escape
from string import Template
from typing import Any

from starlette.responses import HTMLResponse

from jaxcap.captioning.loaded_model import LoadedModel
from jaxcap.config.options import Option
from jaxcap.report.assets import asset, policy
from jaxcap.serving.searches import OPTIONS

_SHOWN = ("method", "beam_size", "n_best", "require", "ban", "max_length")
"""The options on the page; requests may give all."""


def _asset(name: str) -> str:
    return asset(name, "jaxcap.serving")


def _page(
    template: str, *, script: str = "", sources: dict[str, str], **parts: str
) -> HTMLResponse:
    style = asset("page.css") + _asset("serve.css")
    content = Template(_asset(template)).substitute(style=style, script=script, **parts)
    allowed = policy(style=style, script=script, **sources) + "; frame-ancestors 'none'"
    return HTMLResponse(content, headers={"content-security-policy": allowed})


def photographs_page(model: LoadedModel) -> HTMLResponse:
    """Return the page that captions photographs. Its policy allows this server alone."""
    script = "".join([asset("attention.js"), asset("cards.js"), _asset("serve.js")])
    search = model.config.search
    fields = (_field(OPTIONS[name], getattr(search, OPTIONS[name].name)) for name in _SHOWN)
    about = f"{model.directory.stem}: {model.config.encoder.name}, {model.config.decoder.name}."
    note = f" {model.note}." if model.note else ""
    return _page(
        "serve.html",
        script=script,
        sources={"img_src": "blob: data:", "connect_src": "'self'"},
        fields="".join(fields),
        about=escape(about + note),
    )


def _field(option: Option, value: Any) -> str:
    label = escape(option.flag.replace("_", " "))
    name = escape(option.flag)
    if choices := typing.get_args(option.hint) if option.hint is not bool else ():
        if typing.get_origin(option.hint) is tuple:
            control = f'<input name="{name}" data-words autocapitalize="off" placeholder="words">'
        else:
            given = "".join(f"<option>{escape(each)}</option>" for each in choices)
            control = (
                f'<select name="{name}"><option value="">{escape(str(value))} (as set)</option>'
                f"{given}</select>"
            )
    else:
        shown = "all" if option.name == "n_best" and not value else escape(str(value))
        control = f'<input name="{name}" inputmode="numeric" placeholder="{shown}">'
    return f'<label class="field"><span>{label}</span>{control}</label>\n'


def addresses_page(description: dict[str, Any]) -> HTMLResponse:
    """Return the page that shows an OpenAPI description. It has no script."""
    info = description["info"]
    sections = "".join(
        _operation(path, method, operation)
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    )
    return _page(
        "addresses.html",
        sources={"img_src": "data:"},
        title=escape(info["title"]),
        about=escape(info["description"]),
        sections=sections,
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p>{escape(operation['summary'])}</p>"
    ]
    if text := operation.get("description"):
        parts.append(f'<p class="quiet">{escape(text)}</p>')
    if body := operation.get("requestBody"):
        kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in body["content"])
        parts.append(f"<p>Body: {kinds}</p>")
    if parameters := operation.get("parameters"):
        rows = [(each["name"], _type(each["schema"]), each["description"]) for each in parameters]
        parts.append(_table("Options in the address", ("name", "value", ""), rows))
    answers = [(code, each["description"]) for code, each in operation["responses"].items()]
    parts.append(_table("Answers", ("status", ""), answers))
    return "".join(parts) + "</section>"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if schema["type"] == "array":
        return "text, once per word"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    return schema["type"] + (f", {low:.16g} to {high:.16g}" if low is not None else "")


def _table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<table class="others addresses"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
