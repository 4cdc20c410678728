"""The ASGI application of a server."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..classifier.classifier import Classifier
from .errors import RequestError
from .http import Gate, Json
from .metrics import CONTENT_TYPE
from .openapi import document
from .options import server_options
from .page import page_routes
from .protocols import open_inference, tei, vllm
from .service import Service

Handler = Callable[[Request, Service], Awaitable[Response]]


async def health(request: Request, service: Service) -> Json:
    """Whether requests are welcome."""
    if service.ready:
        return Json({"status": "ok"})
    return Json({"status": "shutting down"}, 503)


async def metrics(request: Request, service: Service) -> Response:
    """Metrics for Prometheus."""
    service.metrics.observe_queue(service.batcher)
    return Response(service.metrics.page(), media_type=CONTENT_TYPE)


async def openapi(request: Request, service: Service) -> Json:
    """The OpenAPI document."""
    return Json(document(service.options.api_key is not None))


ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/health"): health,
    ("GET", "/metrics"): metrics,
    ("GET", "/openapi.json"): openapi,
    ("POST", "/classify"): vllm.classify,
    ("GET", "/v1/models"): vllm.models,
    ("POST", "/predict"): tei.predict,
    ("GET", "/v2"): open_inference.server,
    ("GET", "/v2/health/live"): open_inference.live,
    ("GET", "/v2/health/ready"): open_inference.ready,
    ("GET", "/v2/models/{name}"): open_inference.model,
    ("GET", "/v2/models/{name}/ready"): open_inference.model_ready,
    ("POST", "/v2/models/{name}/infer"): open_inference.infer,
    ("GET", "/v2/models/{name}/versions/1"): open_inference.model,
    ("GET", "/v2/models/{name}/versions/1/ready"): open_inference.model_ready,
    ("POST", "/v2/models/{name}/versions/1/infer"): open_inference.infer,
}


def app_of(service: Service) -> Starlette:
    """The application of a service, which is closed when the application ends."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    table = ROUTES | (page_routes() if service.options.page else {})
    routes = [
        Route(path, _endpoint(path, handler, service), methods=[method]) for (method, path), handler in table.items()
    ]
    middleware = [Middleware(Gate, service=service)]
    if service.options.cors_origins:
        origins = list(service.options.cors_origins)
        middleware.insert(
            0, Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
        )
    handlers: dict[Any, Any] = {404: _missing, 405: _wrong_method}
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)
    app.state.service = service
    return app


def _endpoint(path: str, handler: Handler, service: Service) -> Callable[[Request], Awaitable[Response]]:
    @functools.wraps(handler)
    async def endpoint(request: Request) -> Response:
        request.scope["pyllmclf"]["route"] = path
        return await handler(request, service)

    return endpoint


async def _missing(request: Request, error: Exception) -> Response:
    raise RequestError(404, f"there is nothing at {request.url.path[:100]}; /openapi.json lists the paths.")


async def _wrong_method(request: Request, error: Exception) -> Response:
    allowed = getattr(error, "headers", None) or {}
    raise RequestError(405, f"{request.method} is not for this path; {allowed.get('Allow', 'another')} is.", allowed)


def app(classifiers: Classifier | Mapping[str, Classifier], **options: Any) -> Starlette:
    """An ASGI application that serves classifiers, to mount in another one or to run with any ASGI server.

    Parameters
    ----------
    classifiers : Classifier, or mapping of str to Classifier
        Classifiers by name; a single one is named ``"classifier"``. Those that share frozen layers compute them once.
    **options
        The attributes of :class:`.options.ServerOptions`.

    Returns
    -------
    Starlette

    Raises
    ------
    UsageError
        If an option is unknown or out of range, or there is no classifier.
    """
    if isinstance(classifiers, Classifier):
        classifiers = {"classifier": classifiers}
    return app_of(Service(classifiers, server_options(options)))
