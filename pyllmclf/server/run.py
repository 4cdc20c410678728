"""Runs a server until it is told to end: opens classifiers and sockets, and drains on SIGTERM and SIGINT."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.config import Config

from ..errors import ResourceError, UsageError
from .app import app_of
from .process import Serving, server_config, set_up_logging
from .service import Service


def named_folders(arguments: list[str]) -> dict[str, Path]:
    """Names and folders of arguments like ``OUT`` and ``NAME=OUT``; the name of ``OUT`` is its last part.

    Raises
    ------
    UsageError
        If two have one name, or a name is empty.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        name, separator, rest = argument.partition("=")
        # A folder whose name has an equals sign is a folder.
        if not separator or "/" in name or Path(argument).exists():
            path = Path(argument).expanduser()
            name = path.resolve().name
        else:
            path = Path(rest).expanduser()
        if not name:
            raise UsageError(f"{argument!r} names no classifier; write NAME=FOLDER.")
        if name in found:
            raise UsageError(f"two classifiers are named {name!r}; write NAME=FOLDER for one of them.")
        found[name] = path
    if not found:
        raise UsageError("there is no classifier to serve; name the folder of one.")
    return found


def allowed_hosts(host: str, names: list[str]) -> tuple[str, ...] | None:
    """Names of the server in requests: any (``None``) unless it listens at a local address alone.

    Parameters
    ----------
    host : str
        The address that it listens at.
    names : list of str
        More names; ``*`` for any.
    """
    local = host == "localhost" or host.startswith("127.") or host == "::1"
    return (host, *names) if local and "*" not in names else None


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises
    ------
    ResourceError
        If the address is in use, or not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family=family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        raise ResourceError(f"{host}:{port}: can't listen there ({error}); choose another --host or --port.") from error
    listener.set_inheritable(True)
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which answers what it has begun when a signal ends it, and then returns."""

    def __init__(self, config: Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM, in the main thread, without raising them again at the end, as uvicorn does."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends the server after what it has begun; a second SIGINT ends it at once."""
        self.service.ready = False
        super().handle_exit(sig, frame)


def run_here(serving: Serving, listener: socket.socket, service: Service) -> None:
    """Serves on a socket, in this process, until a signal ends it."""
    DrainingServer(server_config(serving, app_of(service)), service).run([listener])


def serve_folders(serving: Serving, host: str, port: int, workers: int, tell: Callable[[str], None]) -> None:
    """Opens classifiers and serves them until SIGTERM or SIGINT.

    Parameters
    ----------
    serving : Serving
    host : str
    port : int
        0 for any.
    workers : int
        Number of processes.
    tell : callable
        Takes status lines.

    Raises
    ------
    UsageError
        If ``workers`` is not positive, or an option doesn't fit.
    ModelError
        If a folder holds no classifier.
    ResourceError
        If the address can't be listened at.
    """
    if workers < 1:
        raise UsageError(f"workers={workers} must be positive.")
    if workers > 1 and threading.current_thread() is not threading.main_thread():
        raise UsageError("workers are started in the main thread only, which gets signals.")
    if not 0 <= serving.drain_seconds < float("inf"):
        raise UsageError(f"drain_seconds={serving.drain_seconds} must be a number of at least 0.")
    if not 0 <= port < 1 << 16:
        raise UsageError(f"port={port} must be from 0 to 65535.")
    listener = open_socket(host, port)
    set_up_logging()
    with closing(listener):
        service = serving.service()
        for served in service.catalog.served.values():
            tell(f"{served.name}: {served.classifier!r}")
        tell(f"serving at {address_of(listener)}; batches of up to {service.batcher.budget} tokens")
        if workers == 1:
            run_here(serving, listener, service)
            return
        # Opened here, too, so that an error is said in one sentence; the workers have memory of their own.
        service.close()
        del service, served
        from .workers import run_workers

        run_workers(serving, listener, workers)
