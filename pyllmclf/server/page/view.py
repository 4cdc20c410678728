"""The page as HTML, which classifies one text without its script, and its two static files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ...explain import Explanation, highlight
from ...printable import printable
from ...version import __version__
from ..errors import RequestError
from ..http import body_of, until_gone
from ..service import Answer, Service
from .files import NO_PAIRS
from .why import Why

# The page loads nothing from elsewhere, and nothing of it is inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# Classes whose bars are shown at once; the others are behind a line that opens.
SHOWN_CLASSES = 8
# Fields of the form are two.
_MOST_FIELDS = 8


async def show(request: Request, service: Service) -> Response:
    """The page; with an API key it names no classifiers."""
    return _page(service)


class Form:
    """The form of one text, for browsers without the script, and for explanations."""

    def __init__(self) -> None:
        self._why = Why()

    async def send(self, request: Request, service: Service) -> Response:
        """The page with the result of the form's text."""
        try:
            # The page is open; what it computes is not.
            if service.options.api_key is not None:
                raise RequestError(
                    403, "this server needs a key, which the page sends only with its script; switch it on."
                )
            fields = await _fields(request, service)
            model, text = fields.get("model"), fields.get("text", "")
        except RequestError as error:
            return _page(service, status=error.status, error=error.message)
        try:
            if not text.strip():
                raise RequestError(422, "there is no text; type one.")
            if service.find(model).classifier.state.has_pairs:
                raise RequestError(422, NO_PAIRS)
            answer = await service.classify(model, [text], abandoned=until_gone(request))
            explanation = await self._why.explain(answer.served, text) if fields.get("explain") else None
        except RequestError as error:
            return _page(service, status=error.status, error=error.message, model=model, text=text)
        facts = {"model": answer.served.name, "texts": 1, "tokens": int(answer.tokens.sum())}
        request.scope["pyllmclf"].update(facts)
        return _page(service, model=answer.served.name, text=text, result=_result(answer, explanation))


async def styles(request: Request, service: Service) -> Response:
    """The style sheet."""
    return _static(request, "page.css", "text/css")


async def script(request: Request, service: Service) -> Response:
    """The script."""
    return _static(request, "page.js", "text/javascript")


async def _fields(request: Request, service: Service) -> dict[str, str]:
    """Fields of a form."""
    options = service.options
    body = await body_of(request, options.max_body_bytes, options.body_timeout)
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise RequestError(400, "the body is not that of the page's form.") from error
    # Browsers send the line ends of a form as CR LF.
    return {name: values[0].replace("\r\n", "\n") for name, values in fields.items()}


def _result(answer: Answer, explanation: Explanation | None) -> Mapping[str, Any]:
    """What the page shows of the answer to one text."""
    (label,), (row,) = answer.labels, answer.probabilities
    order = (-row).argsort(kind="stable")
    bars = [(answer.classes[i], float(row[i])) for i in order]
    return {
        "labels": [label] if isinstance(label, str) else label or [],
        "abstained": answer.reasons[0],
        "bars": bars[:SHOWN_CLASSES],
        "more": bars[SHOWN_CLASSES:],
        "truncated": answer.truncated > 0,
        "why": explanation,
        "words": None if explanation is None else highlight(explanation),
    }


def _page(service: Service, *, status: int = 200, **shown: Any) -> Response:
    options = service.options
    values = {
        "models": [] if options.api_key is not None else list(service.catalog.served),
        "needs_key": options.api_key is not None,
        "max_texts": options.max_texts,
        "max_file_bytes": options.max_file_bytes,
        "shown_classes": SHOWN_CLASSES,
        "version": __version__,
        "model": None,
        "text": "",
        "error": None,
        "result": None,
    }
    html = _environment().get_template("page.html").render(values | shown)
    return HTMLResponse(html.encode("utf-8", "replace"), status, HEADERS)


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """Control characters of names and texts as visible escapes, but for line ends and tabs."""
    return printable(value, keep="\n\r\t") if type(value) is str else value


@functools.cache
def _file(name: str) -> tuple[bytes, str]:
    """Bytes and ETag of a static file."""
    content = resources.files(__package__).joinpath(name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _static(request: Request, name: str, kind: str) -> Response:
    content, tag = _file(name)
    # A browser asks whether its copy is that of this version.
    headers = {"ETag": tag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)
