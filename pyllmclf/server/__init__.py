"""Serves classifiers over HTTP: ``pyllmclf serve``, :func:`pyllmclf.serve`, and an ASGI application."""

from .app import app
from .options import ServerOptions

__all__ = ["ServerOptions", "app"]
