"""Several processes that train one model: torch.distributed, as torchrun starts it."""

from __future__ import annotations

import atexit
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import DistError, PrefixStore, ReduceOp
from torch.nn.parallel import DistributedDataParallel

from .errors import ResourceError, UsageError

# After so long without an answer from another process, it is taken for dead.
TIMEOUT = "PYLLMCLF_DISTRIBUTED_TIMEOUT"
TIMEOUT_SECONDS = 600.0
MOST_SECONDS = 1e9
LOST = "another process has ended or can't be reached ({error}); begin the training again with resume=True (--resume)."

_groups = itertools.count()
# Groups that have ended. gloo's threads let go of the last tensors when they get the interpreter's lock, and a group's
# destructor waits for these threads: called by DistributedDataParallel's, which holds that lock, it could wait forever.
# Python's own reference, which gives the lock away, has to be the last one.
_ended: list[Any] = []
atexit.register(_ended.clear)


class ProcessGroup:
    """The processes of a training; the one of a training that has no others, by default.

    Attributes
    ----------
    rank, world_size : int
        This process among all.
    local_world_size : int
        Processes on this machine, which share its memory.
    """

    rank, world_size, local_world_size = 0, 1, 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        return tensor

    def all_reduce_rows(self, rows: np.ndarray) -> np.ndarray:
        """Rows of which each process has some, and all others are 0."""
        return rows

    def all_reduce_min(self, value: int) -> int:
        """The least of all processes' values."""
        return value

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        return value

    def broadcast_object(self, value: Any) -> Any:
        """What the first process has, as JSON could hold it."""
        return value

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """What process ``source`` has, in place."""
        return tensor

    def barrier(self) -> None:
        """Until all processes are here."""

    def data_parallel(self, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """The model, such that a backward pass adds up the gradients of all processes, divided by their number."""
        return model


class DefaultGroup(ProcessGroup):
    """The default group of torch.distributed."""

    def __init__(self) -> None:
        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))

    def all_reduce(self, tensor: Tensor) -> Tensor:
        with lost_processes():
            torch.distributed.all_reduce(tensor, ReduceOp.SUM)
        return tensor

    def all_reduce_rows(self, rows: np.ndarray) -> np.ndarray:
        return self.all_reduce(torch.from_numpy(rows).to(self._device)).cpu().numpy()

    def all_reduce_min(self, value: int) -> int:
        return self._reduced(value, ReduceOp.MIN)

    def any(self, value: bool) -> bool:
        return bool(self._reduced(int(value), ReduceOp.MAX))

    def _reduced(self, value: int, how: Any) -> int:
        tensor = torch.tensor(value, dtype=torch.int64, device=self._device)
        with lost_processes():
            torch.distributed.all_reduce(tensor, how)
        return int(tensor)

    def broadcast_object(self, value: Any) -> Any:
        values = [value]
        with lost_processes():
            torch.distributed.broadcast_object_list(values, 0, device=self._device)
        return values[0]

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        with lost_processes():
            # NCCL takes tensors of its device alone.
            moved = tensor.to(self._device)
            torch.distributed.broadcast(moved, source)
            if moved is not tensor:
                tensor.copy_(moved)
        return tensor

    def barrier(self) -> None:
        self._reduced(0, ReduceOp.MAX)

    def data_parallel(self, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        device_ids = None if device.type == "cpu" else [device.index]
        with lost_processes():
            return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)

    @property
    def _device(self) -> torch.device:
        nccl = torch.distributed.get_backend() == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


@contextmanager
def lost_processes() -> Iterator[None]:
    """Makes one sentence of what torch raises when another process is gone.

    Raises
    ------
    ResourceError
        Then.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, DistError) and not any(word in str(error) for word in ("gloo", "NCCL", "Connection")):
            raise
        raise ResourceError(_lost(error)) from error


def _lost(error: Exception) -> str:
    return LOST.format(error=str(error).splitlines()[0].split(". ")[0].rstrip("."))


@contextmanager
def processes(device: torch.device) -> Iterator[ProcessGroup]:
    """The processes that torchrun has started with this one, or that the user's program has made a group of.

    A group is made where there is none yet: gloo on CPUs, NCCL on GPUs.

    Raises
    ------
    UsageError
        If the environment says that there are several processes, and not how they find each other.
    ResourceError
        If the others can't be reached.
    """
    if torch.distributed.is_initialized():
        yield DefaultGroup() if torch.distributed.get_world_size() > 1 else ProcessGroup()
        return
    if _number("WORLD_SIZE", 1) <= 1:
        yield ProcessGroup()
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UsageError(f"WORLD_SIZE is set, but not {missing[0]}: start several processes with torchrun.")
    backend = "gloo" if device.type == "cpu" else "nccl"
    timeout = timedelta(seconds=_number(TIMEOUT, TIMEOUT_SECONDS))
    # Addresses of processes that have ended stay in torchrun's store: each attempt and group has names of its own.
    own = f"pyllmclf/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_groups)}"
    try:
        store, rank, count = next(torch.distributed.rendezvous("env://", timeout=timeout))
        torch.distributed.init_process_group(
            backend, store=PrefixStore(own, store), rank=rank, world_size=count, timeout=timeout
        )
    except (RuntimeError, ValueError) as error:
        raise ResourceError(_lost(error)) from error
    _ended.clear()
    try:
        yield DefaultGroup()
    finally:
        _ended.append(torch.distributed.group.WORLD)
        torch.distributed.destroy_process_group()


def _number(name: str, default: float) -> float:
    """What a variable of the environment says, which is a positive number.

    Raises
    ------
    UsageError
        If it isn't.
    """
    value = os.environ.get(name, "").strip() or str(default)
    try:
        if 0 < float(value) <= MOST_SECONDS:
            return float(value)
    except ValueError:
        pass
    raise UsageError(f"{name}={value} in the environment is not a positive number.")


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process among those of its machine; any other device as it is."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def of_this_process(parts: Sequence[Any], group: ProcessGroup) -> Sequence[Any]:
    """This process's share of parts of about the same size."""
    return parts[group.rank :: group.world_size]
