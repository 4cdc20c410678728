"""Schedules: the order in which attention's kernels on the device work on a batch's texts.

A schedule belongs to one batch, or to all batches of one shape, and every attention op of a forward and backward pass
takes it as its argument ``schedule``. Callers hold it without looking inside: only Triton's kernels read it. The
functions here return ``None`` where no kernel would, and every op takes ``None``.
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
        Where the ops will run.

    Returns
    -------
    Schedule, or None
        ``None`` where Triton's kernels don't run on the device.
    """
    if triton_backend.missing(device) is not None:
        return None
    return Schedule(cu_seqlens, cu_seqlens, device)


def pooled_schedule(schedule: Schedule | None, *, causal: bool) -> PooledSchedule | None:
    """Schedule for one query per text on all keys of the batch; ``causal`` as for the batch's other attention."""
    return None if schedule is None else schedule.pooled(causal=causal)


def fixed_schedule(texts: int, rows: int, longest: int, device: torch.device) -> FixedSchedule | None:
    """Schedule of all batches of one shape, in memory that CUDA graphs can read again and again.

    Its method ``load`` takes the ``cu_seqlens`` of the next batch, an int tensor on the CPU, shape [texts + 1].

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
        ``None`` where Triton's kernels don't run on the device.
    """
    if triton_backend.missing(device) is not None:
        return None
    return FixedSchedule(texts, rows, longest, device)
