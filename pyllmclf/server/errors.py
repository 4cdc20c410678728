"""Errors of requests: a status, a sentence, and the JSON in which each protocol says them."""

from __future__ import annotations

import math
from typing import Any

# TEI's names of errors, by status.
_KINDS = {413: "Validation", 422: "Tokenizer", 429: "Overloaded", 503: "Unhealthy", 504: "Overloaded"}


class RequestError(Exception):
    """A request that can't be answered.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        One sentence that says what to do.
    headers : dict, optional
        Headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


def queue_full(retry_after: float) -> RequestError:
    """Status 429, with the seconds after which there is room."""
    seconds = max(1, math.ceil(retry_after))
    return RequestError(429, f"too many texts are waiting; try again in {seconds} s.", {"Retry-After": str(seconds)})


def error_body(path: str, status: int, message: str) -> dict[str, Any]:
    """The JSON of an error in the protocol of a path."""
    if path.startswith("/v2"):
        return {"error": message}
    if path == "/predict":
        return {"error": message, "error_type": _KINDS.get(status, "Validation" if status < 500 else "Backend")}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}
