"""The resources that the trainings of one call share: device, processes, folder, signal handlers, callbacks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..classifier.checkpoint import SPEC_FILE
from ..classifier.schema import read_spec
from ..classifier.swapped import check_model_and_data
from ..compute import Compute, resolve_device
from ..distributed import ProcessGroup, local_device, processes
from ..errors import UsageError
from ..models.hub import read_json
from ..settings import Settings
from ..torch_state import own_torch_state
from .callbacks import Callback, resolve_callbacks
from .preemption import Preemption
from .run_folder import RunFolder


@dataclass(frozen=True)
class Session:
    """Resources of a training in this process, which :func:`open_session` releases at the end.

    Attributes
    ----------
    settings : Settings
        Of this process: only the first shows progress.
    device : torch.device
    group : ProcessGroup
    folder : RunFolder or None
        In the first process, where there is an output folder.
    preemption : Preemption
    callbacks : list of Callback
        In the first process; empty in the others.
    started : float
        When preparing began, by ``time.perf_counter``.
    """

    settings: Settings
    device: torch.device
    group: ProcessGroup
    folder: RunFolder | None
    preemption: Preemption
    callbacks: list[Callback]
    started: float

    def recorded(self) -> Mapping[str, Any]:
        """The ``pyllmclf.json`` of the resumed checkpoint, in all processes; empty without a checkpoint."""
        spec = None
        if self.folder is not None and self.folder.newest is not None:
            file = self.folder.newest / SPEC_FILE
            spec = read_spec(read_json(file), file).to_json()
        return self.group.broadcast_object(spec) or {}


@contextmanager
def open_session(settings: Settings) -> Iterator[Session]:
    """Opens the resources of a training; within the block, its folder is locked and its signals are handled.

    Parameters
    ----------
    settings : Settings

    Yields
    ------
    Session

    Raises
    ------
    UsageError, DataError, ModelError, ResourceError
        As :func:`pyllmclf.finetune`.
    PreemptedError
        If a signal ends the block.
    """
    started = time.perf_counter()
    if settings.train is None:
        raise UsageError("train is missing: give the name of a data set, a file, a DataFrame or (texts, labels).")
    check_model_and_data(settings.model, settings.train)
    with ExitStack() as stack:
        stack.enter_context(own_torch_state())
        device = local_device(resolve_device(settings.device))
        Compute.resolve(device, settings.dtype, settings.backend)  # what the device lacks is said before all else
        output_dir = None if settings.output_dir is None else Path(settings.output_dir)
        callbacks = resolve_callbacks(settings.callbacks, settings.logs, output_dir)
        group = stack.enter_context(processes(device))
        folder = None
        if not group.is_first:
            settings, callbacks = replace(settings, progress=False), []
        elif output_dir is not None:
            folder = stack.enter_context(_run_folder(output_dir, settings))
        single_process = group.world_size == 1
        preemption = stack.enter_context(Preemption(enabled=output_dir is not None, single_process=single_process))
        yield Session(settings, device, group, folder, preemption, callbacks, started)


def _run_folder(path: Path, settings: Settings) -> RunFolder:
    return RunFolder(path, resume=settings.resume, keep_last=settings.keep_last, overwrite=settings.overwrite)
