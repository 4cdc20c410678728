"""Limits of a server, with their defaults and checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from ..errors import UsageError


@dataclass(frozen=True)
class ServerOptions:
    """How a server batches, and what it accepts.

    Attributes
    ----------
    max_wait_ms : float
        Milliseconds that a text waits at most for others to fill a batch, while nothing is computed.
    batch_tokens : int or None
        Most tokens of a batch, which has at least one text; ``None``: as many as take about 25 ms on this machine.
    max_queue : int
        Most texts that wait; beyond it, requests are refused with status 429.
    max_texts : int
        Most texts of a request.
    max_body_bytes : int
        Most bytes of a request's body.
    max_file_bytes : int
        Most bytes of a file that the page classifies.
    deadline : float
        Seconds after which a request that isn't answered ends with status 504.
    body_timeout : float
        Seconds in which a client must have sent its request's body.
    api_key : str or None
        Key that clients send as a bearer token.
    cors_origins : tuple of str
        Origins of web pages that may read answers in a browser.
    allowed_hosts : tuple of str or None
        Names of the server in requests (``Host``) that are answered without a key, beside ``localhost`` and addresses;
        ``None``: any. It keeps web pages from reaching a local server under a name of theirs.
    reload_seconds : float
        Interval at which folders are looked at for newer checkpoints; 0: never.
    page : bool
        Whether there is a page at ``/``.
    access_log : bool
        Whether a line for each request is written to standard error.
    """

    max_wait_ms: float = 2.0
    batch_tokens: int | None = None
    max_queue: int = 2048
    max_texts: int = 1000
    max_body_bytes: int = 4 << 20
    max_file_bytes: int = 64 << 20
    deadline: float = 30.0
    body_timeout: float = 10.0
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] | None = None
    reload_seconds: float = 2.0
    page: bool = True
    access_log: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "max_queue", "max_texts", "max_body_bytes", "max_file_bytes"):
            value = getattr(self, name)
            if name == "batch_tokens" and value is None:
                continue
            if type(value) is not int or value < 1:
                raise UsageError(f"{name}={value!r} must be a positive integer.")
        for name in ("max_wait_ms", "deadline", "body_timeout", "reload_seconds"):
            value, may_be_zero = getattr(self, name), name in ("max_wait_ms", "reload_seconds")
            number = type(value) in (int, float) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and not may_be_zero):
                raise UsageError(f"{name}={value!r} must be a positive number.")
        if self.max_texts > self.max_queue:
            raise UsageError(
                f"max_texts={self.max_texts} texts of a request have no room in max_queue={self.max_queue}."
            )
        key = self.api_key
        if key is not None and not (
            isinstance(key, str) and key.isascii() and key.isprintable() and key.strip() == key
        ):
            raise UsageError("api_key must consist of ASCII characters, without spaces around them.")
        if key == "":
            raise UsageError("api_key is empty; leave it out, or choose one.")
        if "*" in self.cors_origins and self.api_key is None:
            raise UsageError("cors_origins='*' lets every web page use the server; name origins, or set an api_key.")


def server_options(options: dict[str, Any]) -> ServerOptions:
    """The options of these names.

    Raises
    ------
    UsageError
        If one is unknown or out of range.
    """
    names = [field.name for field in fields(ServerOptions)]
    for name in options:
        if name not in names:
            raise UsageError(f"{name} is no option of a server; there are {', '.join(names)}.")
    return ServerOptions(**options)
