"""What a process of a server needs: folders, limits, uvicorn's configuration and logging."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from uvicorn.config import Config

from ..classifier.classifier import Classifier
from ..classifier.functions import load
from ..progress import STANDARD_ERROR
from .catalog import mark_of
from .connection import BoundedProtocol
from .options import ServerOptions
from .service import Service
from .shared_weights import map_weights


@dataclass(frozen=True)
class Serving:
    """What a process of a server needs to know; it is pickled for worker processes.

    Attributes
    ----------
    paths : dict of str to Path
        Folders of classifiers by name.
    options : ServerOptions
    load_options : dict
        Arguments of :func:`pyllmclf.load`.
    drain_seconds : float
        Seconds that requests in flight have after SIGTERM.
    weights_folder : Path or None
        Where several processes share the weights' memory.
    """

    paths: dict[str, Path]
    options: ServerOptions
    load_options: dict[str, Any] = field(default_factory=dict)
    drain_seconds: float = 30.0
    weights_folder: Path | None = None
    _mapped: dict[str, list[Path]] = field(default_factory=dict, repr=False, compare=False)

    def load(self, name: str) -> Classifier:
        """Opens the classifier of a name."""
        folder = self.weights_folder
        # One process after the other: each has a copy of the weights until it maps them.
        with nullcontext() if folder is None else FileLock(folder / "opening.lock"):
            classifier = load(self.paths[name], **self.load_options)
            if folder is not None and classifier.device.type == "cpu":
                self._keep(name, map_weights(classifier.state.model, folder))
        return classifier

    def _keep(self, name: str, paths: list[Path]) -> None:
        """Deletes files of weights that no name has any more; processes that map them still have their memory."""
        before = self._mapped.get(name, [])
        self._mapped[name] = paths
        kept = {path for paths in self._mapped.values() for path in paths}
        for path in before:
            if path not in kept:
                path.unlink(missing_ok=True)

    def service(self) -> Service:
        """Opens all classifiers."""
        marks = {name: mark_of(path) for name, path in self.paths.items()}
        classifiers = {name: self.load(name) for name in self.paths}
        return Service(classifiers, self.options, reload=self.load, paths=self.paths, marks=marks)


def server_config(serving: Serving, app: Any, **options: Any) -> Config:
    """uvicorn's configuration of an application."""
    return Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(serving.drain_seconds),
        **options,
    )


def set_up_logging() -> None:
    """Lines of the access log are JSON on standard error; other messages stand beside them."""
    handler = logging.StreamHandler(STANDARD_ERROR)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (
        ("pyllmclf.access", logging.INFO),
        ("pyllmclf.server", logging.INFO),
        ("uvicorn.error", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
