"""Process groups: several processes train one model with torch.distributed, started by torchrun."""

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

# Environment variable: seconds after which a process that doesn't answer counts as lost.
TIMEOUT = "PYLLMCLF_DISTRIBUTED_TIMEOUT"
TIMEOUT_SECONDS = 600.0
MAX_SECONDS = 1e9
LOST = "another process has ended or can't be reached ({error}); start the training again with resume=True (--resume)."

_groups = itertools.count()
# Destroyed groups. gloo's threads need the interpreter's lock to release their last tensors, and a group's destructor
# waits for these threads: DistributedDataParallel's destructor holds the lock, and would wait forever if it dropped the
# last reference. Python releases the lock while it destroys this list's references.
_destroyed: list[Any] = []
atexit.register(_destroyed.clear)


class ProcessGroup:
    """The processes of a training; this class is the group of a single process, whose collectives do nothing.

    Attributes
    ----------
    rank, world_size : int
        Number of this process, from 0, and number of processes.
    local_world_size : int
        Number of processes on this machine; they share its memory.
    """

    rank, world_size, local_world_size = 0, 1, 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints and progress: rank 0."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over all processes, in place."""
        return tensor

    def all_reduce_rows(self, rows: np.ndarray) -> np.ndarray:
        """Sums rows over processes; each fills its own, the rest are 0."""
        return rows

    def all_reduce_min(self, value: int) -> int:
        """Returns the least value of all processes."""
        return value

    def any(self, value: bool) -> bool:
        """Returns whether the value is true in any process."""
        return value

    def broadcast_object(self, value: Any) -> Any:
        """Returns the first process's value; it consists of types that JSON has."""
        return value

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Copies the tensor of process ``source`` into the tensors of the others, in place."""
        return tensor

    def barrier(self) -> None:
        """Waits until all processes have called it."""

    def data_parallel(self, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """Wraps a model such that its backward pass averages the gradients over all processes."""
        return model


class DefaultGroup(ProcessGroup):
    """The default group of torch.distributed.

    Collectives raise :class:`ResourceError` if another process has ended or can't be reached.
    """

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
        return self._all_reduce_int(value, ReduceOp.MIN)

    def any(self, value: bool) -> bool:
        return bool(self._all_reduce_int(int(value), ReduceOp.MAX))

    def _all_reduce_int(self, value: int, op: Any) -> int:
        tensor = torch.tensor(value, dtype=torch.int64, device=self._device)
        with lost_processes():
            torch.distributed.all_reduce(tensor, op)
        return int(tensor)

    def broadcast_object(self, value: Any) -> Any:
        values = [value]
        with lost_processes():
            torch.distributed.broadcast_object_list(values, 0, device=self._device)
        return values[0]

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        with lost_processes():
            # NCCL only takes tensors on its device.
            moved = tensor.to(self._device)
            torch.distributed.broadcast(moved, source)
            if moved is not tensor:
                tensor.copy_(moved)
        return tensor

    def barrier(self) -> None:
        self._all_reduce_int(0, ReduceOp.MAX)

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
    """Replaces the errors that torch raises when another process is lost.

    Raises
    ------
    ResourceError
        If another process has ended or can't be reached.
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
    """Joins the process group that torchrun's environment describes, or takes the one that the program has made.

    A new group uses gloo on CPUs and NCCL on GPUs, and is destroyed at the end of the block.

    Parameters
    ----------
    device : torch.device

    Yields
    ------
    ProcessGroup

    Raises
    ------
    UsageError
        If the environment names several processes, but not their rank or address.
    ResourceError
        If the other processes can't be reached.
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
    # torchrun's store keeps the addresses of ended processes: each attempt and group has a prefix of its own.
    prefix = f"pyllmclf/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_groups)}"
    try:
        store, rank, world_size = next(torch.distributed.rendezvous("env://", timeout=timeout))
        torch.distributed.init_process_group(
            backend, store=PrefixStore(prefix, store), rank=rank, world_size=world_size, timeout=timeout
        )
    except (RuntimeError, ValueError) as error:
        raise ResourceError(_lost(error)) from error
    _destroyed.clear()
    try:
        yield DefaultGroup()
    finally:
        _destroyed.append(torch.distributed.group.WORLD)
        torch.distributed.destroy_process_group()


def _number(name: str, default: float) -> float:
    """Reads a positive number from an environment variable.

    Raises
    ------
    UsageError
        If the variable holds no number above 0 and up to ``MAX_SECONDS``.
    """
    value = os.environ.get(name, "").strip() or str(default)
    try:
        if 0 < float(value) <= MAX_SECONDS:
            return float(value)
    except ValueError:
        pass
    raise UsageError(f"{name}={value} in the environment is not a positive number.")


def local_device(device: torch.device) -> torch.device:
    """Resolves ``cuda`` to the GPU of this process's local rank and makes it current; others stay unchanged."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def of_this_process(items: Sequence[Any], group: ProcessGroup) -> Sequence[Any]:
    """This process's share of items of similar size: every ``world_size``-th one."""
    return items[group.rank :: group.world_size]
