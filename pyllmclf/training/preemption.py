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


class SignalArrived(BaseException):
    """Ends a block of :meth:`Preemption.at_once`; no ``except Exception`` of a library swallows a BaseException."""


# Errors of a preempted training: a signal between the end of a block and its conversion leaves the first.
PREEMPTED = (SignalArrived, PreemptedError)


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
        if kind is SignalArrived:
            raise PreemptedError(self._message) from error

    @contextmanager
    def at_once(self, message: str = "preempted.") -> Iterator[None]:
        """Lets a signal end the block at once, in work that a resumed run repeats.

        Within the block the signal raises a BaseException, which becomes :class:`PreemptedError` at its end. If a
        library swallows it, or turns it into an error of its own, the end of the block raises all the same.

        Raises
        ------
        PreemptedError
            If a signal arrives within the block, or arrived before it.
        """
        if not self._single_process:
            yield
            return
        if self.requested:
            raise PreemptedError(message)
        self._message = message
        try:
            try:
                self._at_once = True
                yield
            finally:
                self._at_once = False
        except SignalArrived as error:
            raise PreemptedError(message) from error
        except Exception as error:
            if self.requested:
                raise PreemptedError(message) from error
            raise
        if self.requested:
            raise PreemptedError(message)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        if self._at_once:
            self._at_once = False  # only once: the handling of the error must not be interrupted
            raise SignalArrived
