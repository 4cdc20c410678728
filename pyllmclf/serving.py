"""``serve``: classifiers over HTTP until a signal ends it. The call imports the packages of the extra ``serve``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .progress import say


def serve(
    classifiers: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    calibration: Any = None,
    abstain: Any = None,
    conformal: Any = None,
    thresholds: Any = None,
    costs: Any = None,
    held_out: Any = None,
    drain_seconds: float = 30.0,
    progress: bool = True,
    **options: Any,
) -> None:
    """Answers HTTP requests with classifiers until SIGTERM or SIGINT, as ``pyllmclf serve`` does.

    Parameters
    ----------
    classifiers : path, or mapping of str to path
        The folder of a classifier, or folders by name. Classifiers that share frozen layers compute them once.
    host : str
        Address to listen at; ``"0.0.0.0"`` for all of this machine.
    port : int
        0 for any.
    workers : int
        Number of processes, which share the weights' memory. With more than one, a script calls this under
        ``if __name__ == "__main__"``.
    device, dtype, backend, calibration, abstain, conformal, thresholds, costs, held_out
        As for :func:`pyllmclf.load`.
    drain_seconds : float
        Most seconds that requests in flight have after SIGTERM.
    progress : bool
        Whether status lines are written.
    **options
        The attributes of :class:`pyllmclf.server.ServerOptions`.

    Raises
    ------
    ImportError
        Without the packages of the extra ``serve``.
    UsageError
        If an option is unknown or out of range.
    ModelError
        If a folder holds no classifier.
    ResourceError
        If the address can't be listened at.
    """
    from .server.options import server_options
    from .server.process import Serving
    from .server.run import allowed_hosts, named_folders, serve_folders

    if isinstance(classifiers, Mapping):
        paths = {name: Path(path).expanduser() for name, path in classifiers.items()}
    else:
        paths = named_folders([os.fspath(classifiers)])
    options.setdefault("allowed_hosts", allowed_hosts(host, []))
    load_options = {"device": device, "dtype": dtype, "backend": backend, "calibration": calibration}
    load_options |= {"abstain": abstain, "conformal": conformal, "thresholds": thresholds, "costs": costs}
    load_options["held_out"] = held_out
    serving = Serving(paths, server_options(options), load_options, drain_seconds)
    serve_folders(serving, host, port, workers, lambda line: say(line, progress))
