"""Schedules: the order in which attention's kernels on the device process a batch's texts.

A schedule belongs to one batch, or to all batches of one shape; every attention op of a forward and backward pass takes
it as its argument ``schedule``. Callers pass it on as it is: only the Triton kernels read it. Where these don't run,
the functions here return ``None``, which every op takes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.tiles import FixedSchedule, PooledSchedule, Schedule
from .backends import triton as triton_backend

__all__ = ["FixedSchedule", "PooledSchedule", "Schedule", "attention_schedule", "fixed_schedule", "pooled_schedule"]


def attention_schedule(cu_seqlens: Tensor, device: torch.device) -> Schedule | None:
    """Schedule of a batch whose texts attend to themselves.

    Parameters
    ----------
    cu_seqlens : int tensor on the CPU, shape [texts + 1]
        First row of each text, and the end of the last.
    device : torch.device
        Device that the ops run on.

    Returns
    -------
    Schedule, or None
        ``None`` if the Triton kernels don't run on the device.
    """
    if triton_backend.missing(device) is not None:
        return None
    return Schedule(cu_seqlens, cu_seqlens, device)


def pooled_schedule(schedule: Schedule | None, *, causal: bool) -> PooledSchedule | None:
    """Schedule of one query per text on all keys of the batch; ``causal`` as in the batch's other blocks."""
    return None if schedule is None else schedule.pooled(causal=causal)


def fixed_schedule(texts: int, rows: int, longest: int, device: torch.device) -> FixedSchedule | None:
    """Schedule of all batches of one shape, at fixed addresses, which CUDA graphs read at every replay.

    The schedule's method ``load`` takes ``cu_seqlens`` of the next batch: int tensor on the CPU, shape [texts + 1].

    Parameters
    ----------
    texts, rows : int
        Texts and rows of each batch.
    longest : int
        Upper bound on the rows of a text.
    device : torch.device

    Returns
    -------
    FixedSchedule, or None
        ``None`` if the Triton kernels don't run on the device.
    """
    if triton_backend.missing(device) is not None:
        return None
    return FixedSchedule(texts, rows, longest, device)
