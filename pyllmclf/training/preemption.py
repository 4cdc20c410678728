"""SIGTERM and SIGINT ask a training to save and end, instead of ending it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from ..errors import PreemptedError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
    """Notes the signals that arrive in its block; elsewhere they do what they did before.

    A second SIGINT interrupts as ever. Signals reach the main thread alone: a training in another one is not preempted.

    Parameters
    ----------
    enabled : bool
        Whether anything is done at all; there must be a place to save to.
    alone : bool
        Whether no other process waits for what this one does. Otherwise nothing is ended at once.
    """

    def __init__(self, enabled: bool = True, *, alone: bool = True) -> None:
        self._enabled = enabled and threading.current_thread() is threading.main_thread()
        self._alone = alone
        self._before: dict[int, Any] = {}
        self._at_once, self._message = False, ""
        self.requested = False

    def __enter__(self) -> Preemption:
        if self._enabled:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            # None: it was not set by Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def at_once(self, message: str = "preempted.") -> Iterator[None]:
        """Work that can be begun again: here a signal raises :class:`PreemptedError` instead of being noted alone."""
        self._at_once, self._message = self._alone, message
        try:
            if self._at_once and self.requested:
                raise PreemptedError(message)
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        if self._at_once:
            self._at_once = False  # once: what handles it is not interrupted
            raise PreemptedError(self._message)
