"""Answers in the form of other servers, so that their clients connect by configuration alone."""

from __future__ import annotations

import asyncio
import json
import math
import time
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jaxcap.messages.errors import InputError
from jaxcap.serving.bodies import base64_images, form_files, is_multipart, json_object
from jaxcap.serving.service import Refused, Service


class Compatible:
    """The handlers of two other servers' addresses."""

    def __init__(self, service: Service) -> None:
        """Answer with the captions of a service."""
        self._service = service
        self.name = service.model.directory.stem
        """The name by which answers call the model."""

    async def ibm(self, request: Request, body: bytes) -> Response:
        """`POST /model/predict` of IBM's MAX-Image-Caption-Generator: a form with `image`.

        https://github.com/IBM/MAX-Image-Caption-Generator
        """
        if not is_multipart(request):
            raise InputError("send the image in a multipart form, as the field 'image'.")
        files = await asyncio.to_thread(form_files, request.headers["content-type"], body)
        if len(images := files.get("image", [])) != 1:
            raise InputError(f"the form has {len(images)} files in the field 'image'; expected 1.")
        (result,) = await self._service.caption(images, self._service.searches.choose({}))
        if result.error is not None:
            raise Refused(400, "unreadable", result.error)
        predictions = [
            {"index": str(rank), "caption": each.text, "probability": math.exp(each.log_prob)}
            for rank, each in enumerate(result.captions)
        ]
        return JSONResponse({"status": "ok", "predictions": predictions})

    async def ollama(self, request: Request, body: bytes) -> Response:
        """`POST /api/generate` of Ollama: JSON with `images` in base64.

        The captioner needs no prompt: `prompt`, `system`, `format`, and `options` have no effect.
        Several images give several lines.

        https://github.com/ollama/ollama/blob/main/docs/api.md
        """
        began = time.monotonic_ns()
        values = await asyncio.to_thread(json_object, body)
        images = await asyncio.to_thread(base64_images, values.get("images"))
        results = await self._service.caption(images, self._service.searches.choose({}))
        for result in results:
            if result.error is not None:
                raise Refused(400, "unreadable", result.error)
        best = [result.captions[0] for result in results]
        model = values.get("model")
        name = model[:200] if isinstance(model, str) and model else self.name
        common = {
            "model": name.encode(errors="replace").decode(),  # JSON may hold half a character
            "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        spent = time.monotonic_ns() - began
        end: dict[str, Any] = {
            "done": True,
            "done_reason": "stop",
            "total_duration": spent,
            "load_duration": 0,
            "prompt_eval_count": 0,
            "prompt_eval_duration": 0,
            "eval_count": sum(len(each.tokens) for each in best),
            "eval_duration": spent,
        }
        text = "\n".join(each.text for each in best)
        if values.get("stream", True) is False:
            return JSONResponse(common | {"response": text} | end)
        parts = [{"response": text, "done": False}, {"response": ""} | end]
        lines = "".join(json.dumps(common | part) + "\n" for part in parts)
        return Response(lines, media_type="application/x-ndjson")
