"""Between uvicorn and the protocols: keys, sizes and times of requests, errors as JSON, metrics and the access log."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..printable import shown
from .errors import RequestError, error_body
from .service import Service

log = logging.getLogger("pyllmclf.access")
failures = logging.getLogger("pyllmclf.server")
# Paths that need no key: probes, and the page, which asks for the key.
OPEN_PATHS = re.compile(r"/health|/v2/health/(live|ready)|/|/static/[a-z.]+")
# Of a body that is too large, most bytes that are read, and the longest pause in seconds.
DISCARDED_BYTES, PAUSE = 64 << 20, 1.0
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Json(Response):
    """An answer in JSON, made by orjson, which also writes NumPy arrays."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


async def body_of(request: Request, most: int, seconds: float) -> bytes:
    """The body of a request.

    Raises
    ------
    RequestError
        413 if it has more than ``most`` bytes, 408 if it takes longer than ``seconds``.
    """
    too_large = RequestError(413, f"the body has more than {most:,} bytes; send less at once.", {"Connection": "close"})
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        if "expect" not in request.headers:  # the client sends the body without being asked to
            await _discard(request, seconds)
        raise too_large
    chunks, size = list[bytes](), 0

    async def read() -> None:
        nonlocal size
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                await _discard(request, seconds)
                raise too_large
            chunks.append(chunk)

    try:
        await asyncio.wait_for(read(), seconds)
    except asyncio.TimeoutError:
        raise RequestError(
            408, f"the body was not complete after {seconds:g} s; send it faster.", {"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise RequestError(499, "the client has closed the connection.") from None
    return b"".join(chunks)


async def _discard(request: Request, seconds: float) -> None:
    """Reads what a client still sends: many read no answer before, and to close the connection would lose it."""
    until = time.monotonic() + seconds
    size = 0
    while size < DISCARDED_BYTES and time.monotonic() < until:
        try:
            message = await asyncio.wait_for(request.receive(), PAUSE)
        except asyncio.TimeoutError:
            return
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return
        size += len(message.get("body", b""))


async def json_of(request: Request, service: Service) -> dict[str, Any]:
    """The JSON object of a request's body.

    Raises
    ------
    RequestError
        400 if it is none; as :func:`body_of`.
    """
    options = service.options
    return parsed(await body_of(request, options.max_body_bytes, options.body_timeout))


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises
    ------
    RequestError
        400 if it is none.
    """
    if not body:
        raise RequestError(400, "the body is empty; send a JSON object.")
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise RequestError(400, f"the body must be a JSON object, not {type(content).__name__}.")
    return content


def until_gone(request: Request) -> Callable[[], Awaitable[None]]:
    """Makes an awaitable that ends when the client of a request, whose body is read, has closed its connection."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait


class Gate:
    """What every request passes: the key, the request id, errors, metrics and the access log.

    Parameters
    ----------
    app : ASGI application
    service : Service
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        key = service.options.api_key
        self._expected = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, began = time.perf_counter(), 500, False
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["pyllmclf"] = facts = {"request_id": request_id}

        async def answer(message: Message) -> None:
            nonlocal status, began
            if message["type"] == "http.response.start":
                status, began = message["status"], True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self._check_place(scope, headers)
            self._check_key(scope, headers)
            await self.app(scope, receive, answer)
        except RequestError as error:
            status = error.status
            if not began:
                await _error(scope, error)(scope, receive, answer)
        except Exception:
            failures.exception("request %s failed", request_id)
            if began:
                raise
            unexpected = RequestError(500, f"an unexpected error; the server's log has it under {request_id}.")
            await _error(scope, unexpected)(scope, receive, answer)
        finally:
            self._observe(scope, status, time.perf_counter() - started, facts)

    def _check_place(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Refuses what a web page of another site makes a browser send."""
        options = self.service.options
        if options.allowed_hosts is not None and options.api_key is None:
            name = _host_name(headers.get(b"host", b"").decode("latin-1"))
            if not _is_address(name) and name != "localhost" and name not in options.allowed_hosts:
                raise RequestError(421, f"the server is not {shown(name)}; --allowed-host names what it may be called.")
        if scope["method"] == "POST" and headers.get(b"sec-fetch-site") == b"cross-site":
            origin = headers.get(b"origin", b"").decode("latin-1")
            if not {origin, "*"} & set(options.cors_origins):
                raise RequestError(403, "web pages of other sites may not ask; --cors-origin names those that may.")

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        # A browser sends no key with the question whether it may ask.
        if self._expected is None or OPEN_PATHS.fullmatch(path_of(scope)) or scope["method"] == "OPTIONS":
            return
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            raise RequestError(
                401, "a key is needed; send it as Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"}
            )

    def _observe(self, scope: Scope, status: int, seconds: float, facts: dict[str, Any]) -> None:
        path = facts.get("route", "other")
        metrics = self.service.metrics
        metrics.requests.labels(path, str(status)).inc()
        metrics.request_seconds.labels(path).observe(seconds)
        metrics.observe_queue(self.service.batcher)
        if self.service.options.access_log:
            client = scope.get("client")
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z",
                "client": client[0] if client else None,
                "method": scope["method"],
                "path": path_of(scope),
                "status": status,
                "ms": round(1000 * seconds, 2),
                **{name: value for name, value in facts.items() if name != "route"},
            }
            log.info(orjson.dumps(line).decode())


def _host_name(host: str) -> str:
    """The name of a ``Host`` header, without the port."""
    name = host[: host.rfind(":")] if re.search(r":\d*$", host) and (host.count(":") == 1 or "]" in host) else host
    return name.strip("[]").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def path_of(scope: Scope) -> str:
    """The path of a request below the place where the application is mounted."""
    path, root = scope["path"], scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path


def _error(scope: Scope, error: RequestError) -> Json:
    return Json(error_body(path_of(scope), error.status, error.message), error.status, error.headers)
