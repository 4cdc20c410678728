"""Serves classifiers over HTTP: ``pyllmclf serve``, :func:`pyllmclf.serve`, and an ASGI application."""

try:
    import httptools  # noqa: F401
    import orjson  # noqa: F401
    import prometheus_client  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"pyllmclf.server needs the package {error.name}; pip install 'pyllmclf[serve]'.", name=error.name
    ) from error

from .app import app
from .options import ServerOptions

__all__ = ["ServerOptions", "app"]
