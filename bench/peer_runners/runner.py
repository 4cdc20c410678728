"""Runs one peer on one draw: what its runners share. Imports the standard library alone, since each has its own venv.

A runner is called as ``python run_PEER.py DRAW.json RESULT.json``. The draw has ``texts``, ``labels``, ``test`` (texts
without labels), ``model`` (a folder), ``options`` and ``cap_minutes``; the result has ``predictions`` (``null`` where
the training reached the cap), ``cpu_seconds`` and ``wall_seconds`` of the training, ``progress`` and ``versions``.
"""

from __future__ import annotations

import importlib._bootstrap
import importlib.metadata
import json
import platform
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CAP_INTERVAL = 0.1
Predict = Callable[[list[str]], Sequence[Any]]


@dataclass
class Task:
    """What a peer is trained on.

    Attributes
    ----------
    texts, labels : list of str
    model : str
        Folder of the pretrained model.
    options : dict
        Settings that differ from the peer's defaults.
    progress : callable
        Returns how far the training is; a runner may set it before it trains.
    """

    texts: list[str]
    labels: list[str]
    model: str
    options: dict[str, Any]
    progress: Callable[[], dict[str, int]] = field(default=dict)


class CapReached(BaseException):
    """The training has used its CPU time. Not an Exception, which libraries catch around their trials."""


def cpu_seconds() -> float:
    """CPU seconds of this process, its threads, and its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class ImportClock:
    """Seconds that imports take while it is entered, since libraries import much when they first train.

    Replaces the function that Python's import statement calls for a module that is not loaded yet.
    """

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self._thread = threading.local()

    def __enter__(self) -> ImportClock:
        self._original: Callable[..., Any] = importlib._bootstrap._find_and_load  # type: ignore[attr-defined]
        importlib._bootstrap._find_and_load = self._timed  # type: ignore[attr-defined]
        return self

    def __exit__(self, *_: object) -> None:
        importlib._bootstrap._find_and_load = self._original  # type: ignore[attr-defined]

    def _timed(self, *arguments: Any) -> Any:
        if getattr(self._thread, "nested", False):
            return self._original(*arguments)
        self._thread.nested = True
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            return self._original(*arguments)
        finally:
            self._thread.nested = False
            self.cpu += time.thread_time() - cpu
            self.wall += time.perf_counter() - wall


@contextmanager
def cpu_cap(minutes: float) -> Iterator[None]:
    """Raises :class:`CapReached` in the main thread once so many more CPU minutes are used.

    A thread looks every ``CAP_INTERVAL`` seconds: the system's own limit may notify a busy virtual machine late.
    """

    def stop(*_: object) -> None:
        raise CapReached

    def watch() -> None:
        while not ended.wait(CAP_INTERVAL):
            if cpu_seconds() > limit:
                signal.pthread_kill(main_thread, signal.SIGUSR1)
                return

    limit, main_thread, ended = cpu_seconds() + 60 * minutes, threading.get_ident(), threading.Event()
    watching = threading.Thread(target=watch, daemon=True)
    before = signal.signal(signal.SIGUSR1, stop)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
        signal.signal(signal.SIGUSR1, before)


def main(train: Callable[[Task], Predict], packages: Sequence[str]) -> int:
    """Trains on the draw, predicts its test texts, and writes the result.

    Parameters
    ----------
    train : callable
        Trains on a :class:`Task`; returns what predicts the labels of texts.
    packages : sequence of str
        Distributions whose versions are recorded.
    """
    draw = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    task = Task(draw["texts"], draw["labels"], draw["model"], draw["options"])
    predict: Predict | None = None
    with ImportClock() as imports:
        cpu, wall = cpu_seconds(), time.perf_counter()
        try:
            with cpu_cap(draw["cap_minutes"]):
                predict = train(task)
        except CapReached:
            pass
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    result = {
        "predictions": predict and [each if each is None else str(each) for each in predict(draw["test"])],
        "cpu_seconds": cpu - imports.cpu,
        "wall_seconds": wall - imports.wall,
        "progress": task.progress(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
    }
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
    return 0
