"""The application: what each address answers, and who may ask."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxcap.serving.compatible import Compatible
from jaxcap.serving.monitoring import CONTENT_TYPE
from jaxcap.serving.openapi import describe
from jaxcap.serving.pages import addresses_page, photographs_page
from jaxcap.serving.service import Refused, Service

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_OPEN = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
"""Addresses that need no token: they tell nothing about anybody's images."""


class _Guard:
    """Checks token and origin, counts answers, and sets headers that every answer has."""

    def __init__(self, app: ASGIApp, service: Service, paths: frozenset[str]) -> None:
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self._service.draining:
                    headers["connection"] = "close"
                known = path if path in self._paths else "other"
                self._service.monitor.requests.labels(known, str(message["status"])).inc()
            await send(message)

        app, refused = self._app, self._refused(scope)
        if refused is not None:
            self._service.monitor.failures.labels(refused.kind).inc()
            app = _error(refused)
        await app(scope, receive, counted)

    def _refused(self, scope: Scope) -> Refused | None:
        if scope["state"].get("full"):
            return Refused(503, "connections", "too many connections; try again later.")
        headers, settings = Headers(scope=scope), self._service.settings
        if settings.token is not None and scope["path"] not in _OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(given.strip().encode(), settings.token.encode())
            if scheme.lower() != "bearer" or not is_right:
                return Refused(401, "unauthorized", "give the token: Authorization: Bearer TOKEN.")
        # A page of another site could make its visitors' browsers send images here.
        origin = headers.get("origin")
        if scope["method"] == "POST" and origin is not None and origin not in settings.origins:
            try:
                own = urlsplit(origin).netloc == headers.get("host")
            except ValueError:
                own = False
            if not own:
                return Refused(
                    403,
                    "foreign_origin",
                    "pages of other sites may not use this server; its --allow-origin names some.",
                )
        return None


def _error(refused: Refused) -> JSONResponse:
    headers = {
        401: {"www-authenticate": "Bearer"},
        503: {"retry-after": "1", "connection": "close"},
    }
    return JSONResponse({"error": str(refused)}, refused.status, headers.get(refused.status))


def create_app(service: Service) -> Starlette:
    """Return the application of a service."""

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        is_ready = service.is_ready()
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def metrics(request: Request) -> Response:
        return Response(service.monitor.text(), headers={"content-type": CONTENT_TYPE})

    async def missing(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        message = {
            404: "there is nothing at this address; /docs lists what there is.",
            405: "this address does not take this method; /docs lists what it takes.",
        }
        return JSONResponse(
            {"error": message.get(status, str(error))}, status, getattr(error, "headers", None)
        )

    description = describe(needs_token=service.settings.token is not None)
    photographs, addresses = photographs_page(service.model), addresses_page(description)

    async def page(request: Request) -> Response:
        return photographs

    async def docs(request: Request) -> Response:
        return addresses

    async def openapi(request: Request) -> Response:
        return JSONResponse(description)

    others = Compatible(service)
    caption = service.handler(service.answer_caption)
    predict = service.handler(others.ibm, lambda text: {"status": "error", "message": text})
    routes = [
        Route("/", page),
        Route("/docs", docs),
        Route("/openapi.json", openapi),
        Route("/v1/caption", caption, methods=["POST"]),
        Route("/model/predict", predict, methods=["POST"]),
        Route("/api/generate", service.handler(others.ollama), methods=["POST"]),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/metrics", metrics),
    ]
    guard = Middleware(_Guard, service=service, paths=frozenset(each.path for each in routes))
    cors = Middleware(
        CORSMiddleware,
        allow_origins=service.settings.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type"],
    )
    app = Starlette(
        routes=routes,
        middleware=[cors, guard] if service.settings.origins else [guard],
        exception_handlers={404: missing, 405: missing},
    )
    app.router.redirect_slashes = False  # to wherever the request's Host says
    return app
