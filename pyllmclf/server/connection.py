"""uvicorn's HTTP connection, with bounds on a request's head and answers for connections that are half closed."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import error_body

# Without bounds, clients that send a byte now and then, or headers without an end, could hold all connections.
HEAD_SECONDS = 10.0
HEAD_BYTES = 64 << 10
# A client that has closed its side may still read, or be gone.
HALF_CLOSED_SECONDS = 2.0


class BoundedProtocol(HttpToolsProtocol):
    """A connection that ends where a request's head takes :data:`HEAD_SECONDS`, or more than :data:`HEAD_BYTES`.

    A client that closes its side after a request gets its answer, if that takes at most :data:`HALF_CLOSED_SECONDS`.
    """

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _half_closed = False

    def connection_made(self, transport: Any) -> None:
        """Starts the time of the first request."""
        super().connection_made(transport)
        self._start(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Starts the time of what is no request yet, such as the rest of a body that was refused."""
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._timer is None and self.parser is not None and self.timeout_keep_alive_task is None:
            self._start(HEAD_SECONDS)

    def on_message_begin(self) -> None:
        """Starts the time of the next request."""
        super().on_message_begin()
        self._head_bytes = 0
        self._start(HEAD_SECONDS)

    def on_url(self, url: bytes) -> None:
        """Counts bytes."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts bytes."""
        self._count(name + value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Ends the time."""
        self._stop()
        super().on_headers_complete()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keeps the connection for the answer that is due."""
        if self._answer_is_due() and not self.cycle.more_body:
            self.cycle.keep_alive, self._half_closed = False, True
            self._start(HALF_CLOSED_SECONDS)
            return True
        if self._answer_is_due() or (self._timer is not None and self._head_bytes):
            self.send_400_response("the connection was closed before the request was complete.")
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the time."""
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Says in JSON what is wrong, and closes the connection."""
        if self._answer_is_due() and self.cycle.response_started:
            self.transport.close()
            return
        sentence = "the request is not HTTP/1.1." if msg.startswith("Invalid") else msg
        body = orjson.dumps(error_body("", 400, sentence))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _answer_is_due(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _count(self, part: bytes) -> None:
        self._head_bytes += len(part)
        if self._head_bytes > HEAD_BYTES:
            raise ValueError("the head of the request is too large")  # the parser makes it an error of the request

    def _start(self, seconds: float) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, self._close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        if self._answer_is_due() and not self._half_closed:  # of the request before, in a pipeline
            self._start(HEAD_SECONDS)
        elif self.transport is not None and not self.transport.is_closing():
            self.transport.close()
