"""Several processes that serve on one socket."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import SIGNALS

from ..errors import ResourceError
from .app import app_of
from .metrics import FOLDER_VARIABLE
from .process import Serving, server_config, set_up_logging
from .service import Service

THREADS_VARIABLE = "OMP_NUM_THREADS"


class WorkerApplication:
    """Makes the application of a worker process; it is pickled to it.

    Parameters
    ----------
    serving : Serving
    """

    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    def __call__(self) -> Any:
        set_up_logging()
        try:
            service = self.serving.service()
            _say_when_ending(service)
            return app_of(service)
        except Exception:
            logging.getLogger("pyllmclf.server").exception("a worker can't start")
            # The supervisor ends; with another code it would start the worker again.
            sys.exit(STARTUP_FAILURE)


def _say_when_ending(service: Service) -> None:
    """Lets health checks fail from SIGTERM on; the handlers are uvicorn's otherwise."""
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)

        def handle(number: int, frame: Any, before: Any = before) -> None:
            service.ready = False
            if callable(before):
                before(number, frame)

        signal.signal(number, handle)


class Supervisor(Multiprocess):
    """uvicorn's supervisor, which remembers whether a worker failed to start, and closes the socket when it ends.

    A worker counts as alive while its process runs: it answers no ping before it has imported torch, and waiting for an
    answer would delay signals. Whether it serves is the question of health checks.
    """

    failed = False

    def keep_subprocess_alive(self) -> None:
        """Starts a process anew for each that has died."""
        for process in self.processes:
            process.is_alive = partial(_runs, process)  # type: ignore[method-assign]
        told = self.should_exit.is_set()
        super().keep_subprocess_alive()
        self.failed = self.should_exit.is_set() and not told

    def terminate_all(self) -> None:
        """Ends the workers; the socket of this process is closed first, so that no more connections are made."""
        for each in self.sockets:
            each.close()
        super().terminate_all()


def _runs(process: Any, timeout: float = 0.0) -> bool:
    """Whether the process of a worker runs."""
    return bool(process.process.is_alive())


def run_workers(serving: Serving, listener: socket.socket, workers: int) -> None:
    """Serves on a socket in several processes, until a signal ends them.

    Raises
    ------
    ResourceError
        If a worker can't start.
    """
    with _shared_folder() as folder, _environment(folder, workers), _restored_signals():
        application = WorkerApplication(replace(serving, weights_folder=folder))
        options = {"factory": True, "workers": workers}
        supervisor = Supervisor(server_config(serving, application, **options), [listener])
        supervisor.run()
        if supervisor.failed:
            raise ResourceError("a worker process can't start; the lines above say why.")


@contextmanager
def _shared_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pyllmclf-serve-"))
    try:
        (folder / "metrics").mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(folder: Path, workers: int) -> Iterator[None]:
    """The variables that workers start with: the folder of metrics, and their share of the processors."""
    before = dict(os.environ)
    os.environ[FOLDER_VARIABLE] = str(folder / "metrics")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault(THREADS_VARIABLE, str(max(1, processors // workers)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _restored_signals() -> Iterator[None]:
    numbers = list(SIGNALS)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
