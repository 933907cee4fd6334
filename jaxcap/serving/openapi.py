"""The description of all addresses in OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0).

The options of captions are those that `SearchConfig` declares, with their bounds and texts.
"""

from __future__ import annotations

import typing
from typing import Any

import jaxcap
from jaxcap.config import SearchConfig
from jaxcap.config.options import Option, field_docstrings
from jaxcap.serving.searches import OPTIONS

_JSON = "application/json"
_LINES = "application/x-ndjson"
_FORM = "multipart/form-data"
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def describe(*, needs_token: bool) -> dict[str, Any]:
    """Return the description.

    Args:
      needs_token: whether clients must send a token.
    """
    failures = {
        "413": "The body is too large.",
        "422": "The image cannot be read, an option is invalid, or a limit is exceeded.",
        "503": "The queue is full, or the model is not compiled yet; try again after Retry-After.",
        "504": "The request took too long.",
    }
    image = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "schema": {
            "type": "object",
            "properties": {"image": {"type": "string", "format": "binary"}},
        }
    }
    result = {"$ref": "#/components/schemas/Captioned"}
    description: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Captions over HTTP",
            "version": jaxcap.__version__,
            "description": "Send an image; get captions. Images are sent, never fetched.",
        },
        "paths": {
            "/v1/caption": {
                "post": _operation(
                    "Caption an image, or each image of a form",
                    {"application/octet-stream": image, "image/*": image, _FORM: form},
                    {_JSON: {"schema": result}, _LINES: {"schema": result}},
                    failures,
                    description="The answer is what jaxcap caption --format jsonl writes: JSON for "
                    "one image, and a line for each image of a form. In a form, an image that "
                    "cannot be read has a line with its error.",
                    parameters=_parameters(),
                )
            },
            "/model/predict": {
                "post": _operation(
                    "Caption an image, as IBM's MAX-Image-Caption-Generator",
                    {_FORM: form},
                    {_JSON: {}},
                    failures,
                )
            },
            "/api/generate": {
                "post": _operation(
                    "Caption images in base64, as Ollama",
                    {
                        _JSON: {
                            "schema": {
                                "type": "object",
                                "required": ["images"],
                                "properties": {
                                    "model": {"type": "string"},
                                    "prompt": {"type": "string"},
                                    "images": {"type": "array", "items": {"type": "string"}},
                                    "stream": {"type": "boolean", "default": True},
                                },
                            }
                        }
                    },
                    {_JSON: {}, _LINES: {}},
                    failures,
                    description="The prompt and the options of language models have no effect.",
                )
            },
            "/v2/health/live": {
                "get": _operation("Whether the server runs", None, {_JSON: {}}, {})
            },
            "/v2/health/ready": {
                "get": _operation(
                    "Whether the model is compiled",
                    None,
                    {_JSON: {}},
                    {"503": "It is not compiled yet, or the server is stopping."},
                )
            },
            "/metrics": {
                "get": _operation("Counters for Prometheus", None, {"text/plain": {}}, {})
            },
        },
        "components": {"schemas": {"Captioned": _captioned()}},
    }
    if needs_token:
        description["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"}
        }
        description["security"] = [{"token": []}]
    return description


def _operation(
    summary: str,
    body: dict[str, Any] | None,
    answer: dict[str, Any],
    failures: dict[str, str],
    **others: Any,
) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": summary, **others}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    operation["responses"] = {"200": {"description": "The answer.", "content": answer}} | {
        status: {"description": text} for status, text in failures.items()
    }
    return operation


def _parameters() -> list[dict[str, Any]]:
    texts = field_docstrings(SearchConfig)
    parameters = [
        {
            "name": option.flag,
            "in": "query",
            "description": texts.get(option.name, ""),
            "schema": _schema(option),
        }
        for option in OPTIONS.values()
    ]
    words = {
        "name": "words",
        "in": "query",
        "description": "Add the probability and the attention weights of each word.",
        "schema": {"type": "boolean"},
    }
    return [*parameters, words]


def _schema(option: Option) -> dict[str, Any]:
    if typing.get_origin(option.hint) is typing.Literal:
        return {"type": "string", "enum": list(typing.get_args(option.hint))}
    if typing.get_origin(option.hint) is tuple:
        return {"type": "array", "items": {"type": "string"}, "maxItems": option.max_items}
    schema: dict[str, Any] = {"type": _TYPES[option.hint]}
    if (bounds := option.bounds) is not None:
        schema["exclusiveMinimum" if bounds.open_low else "minimum"] = bounds.low
        schema["exclusiveMaximum" if bounds.open_high else "maximum"] = bounds.high
    return schema


def _captioned() -> dict[str, Any]:
    number, text = {"type": "number"}, {"type": "string"}
    word = {
        "type": "object",
        "properties": {
            "word": text,
            "probability": number,
            "attention": {"type": "array", "items": {"type": "array", "items": number}},
        },
    }
    caption = {
        "type": "object",
        "required": ["caption", "log_prob", "confidence"],
        "properties": {
            "caption": text,
            "log_prob": number,
            "confidence": number,
            "satisfied": {"type": "boolean"},
            "words": {"type": "array", "items": word},
        },
    }
    return {
        "type": "object",
        "required": ["image", "captions"],
        "properties": {
            "image": text,
            "captions": {"type": "array", "items": caption},
            "familiarity": number,
            "unsaid": {"type": "array", "items": text},
            "recognised": {"type": "object", "additionalProperties": number},
            "error": text,
        },
    }
