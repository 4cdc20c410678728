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
from pathlib import Path
from typing import Any

from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from ..errors import ResourceError
from .app import app_of
from .metrics import FOLDER_VARIABLE
from .serving import Serving, server_config, set_up_logging

# A worker imports torch and opens its classifiers before it answers the supervisor.
START_SECONDS = 300
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
            return app_of(self.serving.service())
        except Exception:
            logging.getLogger("pyllmclf.server").exception("a worker can't start")
            # The supervisor ends; with another code it would start the worker again.
            sys.exit(STARTUP_FAILURE)


class Supervisor(Multiprocess):
    """uvicorn's supervisor, which remembers whether a worker failed to start."""

    failed = False

    def keep_subprocess_alive(self) -> None:
        """Starts a process anew for each that has died."""
        told = self.should_exit.is_set()
        super().keep_subprocess_alive()
        self.failed = self.should_exit.is_set() and not told


def run_workers(serving: Serving, listener: socket.socket, workers: int) -> None:
    """Serves on a socket in several processes, until a signal ends them.

    Raises
    ------
    ResourceError
        If a worker can't start.
    """
    with _shared_folder() as folder, _environment(folder, workers), _restored_signals():
        application = WorkerApplication(replace(serving, weights_folder=folder))
        options = {"factory": True, "workers": workers, "timeout_worker_healthcheck": START_SECONDS}
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
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
