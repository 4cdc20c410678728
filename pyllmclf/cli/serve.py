"""``pyllmclf serve``: classifiers over HTTP."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..progress import say
from .options import (
    Abstain,
    Backend,
    Calibration,
    Conformal,
    Costs,
    Debug,
    Device,
    HeldOutTexts,
    LoadDtype,
    Progress,
    Thresholds,
    user_paths,
)

NETWORK, BATCHES, LIMITS = "Network", "Batches", "Limits"
KEY_VARIABLE = "PYLLMCLF_API_KEY"


def _option(panel: str, text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=panel)


@user_paths
def serve(
    classifiers: Annotated[
        list[str],
        typer.Argument(metavar="OUT [NAME=OUT2 ...]", help="Folders of classifiers, as finetune writes them."),
    ],
    host: Annotated[str, _option(NETWORK, "Address to listen at; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, _option(NETWORK, "Port to listen at; 0 for any.")] = 8000,
    workers: Annotated[int, _option(NETWORK, "Processes; they share the weights' memory.")] = 1,
    api_key: Annotated[
        str | None,
        _option(NETWORK, f"Key that clients send as a bearer token; better in the environment, as {KEY_VARIABLE}."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None, _option(NETWORK, "Origin of web pages that may ask; can be repeated. Default: none.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        _option(
            NETWORK,
            "Name that clients of a local address may use, as behind a proxy; can be repeated, * for any. "
            "Default: localhost and addresses.",
        ),
    ] = None,
    page: Annotated[bool, _option(NETWORK, "Serve a page at /, to try the classifiers.")] = True,
    access_log: Annotated[bool, _option(NETWORK, "A line of JSON for each request on standard error.")] = True,
    max_wait_ms: Annotated[float, _option(BATCHES, "Most milliseconds that a text waits for others.")] = 2.0,
    batch_tokens: Annotated[
        int | None, _option(BATCHES, "Most tokens of a batch; default: as many as take about 25 ms.")
    ] = None,
    max_queue: Annotated[int, _option(LIMITS, "Most waiting texts; beyond it, the answer is 429.")] = 2048,
    max_texts: Annotated[int, _option(LIMITS, "Most texts of a request.")] = 1000,
    max_body_mb: Annotated[float, _option(LIMITS, "Most megabytes of a request.")] = 4.0,
    deadline: Annotated[float, _option(LIMITS, "Most seconds until a request is answered, or ends with 504.")] = 30.0,
    reload_seconds: Annotated[
        float, _option(LIMITS, "Interval at which newer checkpoints are looked for; 0: never.")
    ] = 2.0,
    drain_seconds: Annotated[float, _option(LIMITS, "Most seconds that requests have to finish after SIGTERM.")] = 30.0,
    abstain: Abstain = None,
    conformal: Conformal = None,
    thresholds: Thresholds = None,
    cost: Costs = None,
    held_out: HeldOutTexts = None,
    device: Device = "auto",
    dtype: LoadDtype = "auto",
    calibration: Calibration = None,
    backend: Backend = "auto",
    progress: Progress = True,
    debug: Debug = False,
) -> None:
    """Answer HTTP requests with classifiers, in the protocols of vLLM, TEI and KServe, and with a page."""
    _check_installed()
    from ..server.options import ServerOptions
    from ..server.run import Serving, allowed_hosts, named_folders, serve_folders

    if api_key is None:
        api_key = os.environ.get(KEY_VARIABLE) or None
    if not 0 < max_body_mb < 1 << 20:
        raise UsageError(f"--max-body-mb: {max_body_mb} must be a positive number of megabytes.")
    options = ServerOptions(
        max_wait_ms=max_wait_ms,
        batch_tokens=batch_tokens,
        max_queue=max_queue,
        max_texts=max_texts,
        max_body_bytes=int(max_body_mb * (1 << 20)),
        deadline=deadline,
        api_key=api_key,
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=allowed_hosts(host, allowed_host or []),
        reload_seconds=reload_seconds,
        page=page,
        access_log=access_log,
    )
    load_options = {"device": device, "dtype": dtype, "calibration": calibration, "backend": backend}
    load_options |= {"abstain": abstain, "conformal": conformal, "thresholds": thresholds, "costs": cost}
    load_options["held_out"] = held_out
    serving = Serving(named_folders(classifiers), options, load_options, drain_seconds)
    serve_folders(serving, host, port, workers, lambda line: say(line, progress))


def _check_installed() -> None:
    """Raises :class:`UsageError` without the packages of the extra ``serve``."""
    try:
        from .. import server  # noqa: F401
    except ImportError as error:
        raise UsageError(str(error)) from error
