"""Preemption: SIGTERM and SIGINT make a training save a checkpoint and end."""

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
    """Handles SIGTERM and SIGINT within its block; the handlers of before are restored at its end.

    A second SIGINT raises KeyboardInterrupt. Signals reach only the main thread: a training in another thread is not
    preempted.

    Parameters
    ----------
    enabled : bool
        Whether signals are handled at all; a training without an output folder has nowhere to save.
    single_process : bool
        Whether the training has a single process. With several, :meth:`at_once` defers signals: the others wait for
        this one in collectives.

    Attributes
    ----------
    requested : bool
        Whether a signal has arrived.
    """

    def __init__(self, enabled: bool = True, *, single_process: bool = True) -> None:
        self._enabled = enabled and threading.current_thread() is threading.main_thread()
        self._single_process = single_process
        self._before: dict[int, Any] = {}
        self._at_once, self._message = False, ""
        self.requested = False

    def __enter__(self) -> Preemption:
        if self._enabled:
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            # None: a handler that Python has not set.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def at_once(self, message: str = "preempted.") -> Iterator[None]:
        """Lets a signal raise :class:`PreemptedError` at once, in work that a resumed run repeats.

        Raises
        ------
        PreemptedError
            If a signal arrives within the block, or arrived before it.
        """
        self._at_once, self._message = self._single_process, message
        try:
            if self._at_once and self.requested:
                raise PreemptedError(message)
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        if self._at_once:
            self._at_once = False  # only once: the handling of the error must not be interrupted
            raise PreemptedError(self._message)
