"""The page of a server: classifies texts and files in a browser, and shows the errors of labelled files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from ..service import Service
from .files import Files
from .view import Form, script, show, styles


def page_routes() -> dict[tuple[str, str], Callable[[Request, Service], Awaitable[Response]]]:
    """Handlers of the page, by method and path."""
    return {
        ("GET", "/"): show,
        ("POST", "/"): Form().send,
        ("GET", "/static/page.css"): styles,
        ("GET", "/static/page.js"): script,
        ("POST", "/files"): Files().classify,
    }


__all__ = ["page_routes"]
