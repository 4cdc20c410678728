"""Rows of activation caches that trainings of one process share: of the same frozen weights, texts and arithmetic."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from threading import Lock

import torch
from torch import Tensor

from ..memory import available_memory

SHARE = 0.25
SHARE_OF_PROCESS = 0.125
"""Shares of the free memory that shared rows take: in a block, and those that stay until the process ends."""


class SharedRows:
    """Rows by the hash of what they depend on; the least recently used ones make room.

    Parameters
    ----------
    budget : int
        Most bytes.
    on_devices : bool
        Whether rows in the memory of a GPU are held, too: what is there is scarce.

    Attributes
    ----------
    trained_blocks : frozenset of int
        Numbers of last blocks that trainings will train: what these start from is kept on the way to a later block.
    """

    def __init__(self, budget: int, *, on_devices: bool = True) -> None:
        self.budget, self.on_devices, self.trained_blocks = budget, on_devices, frozenset[int]()
        self._rows: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = Lock()  # fits in several threads share those of the process

    @classmethod
    def of_free_memory(cls, share: float, device: torch.device | None = None, *, on_devices: bool = True) -> SharedRows:
        """With a share of the free memory as their budget: of the device's, where it is a GPU and has less."""
        free = available_memory()
        if device is not None and device.type == "cuda":
            free = min(free, torch.cuda.mem_get_info(device)[0])
        return cls(int(share * free), on_devices=on_devices)

    def find(self, key: str) -> Tensor | None:
        """The rows with a key; ``None`` if they are not held."""
        with self._lock:
            if key not in self._rows:
                return None
            self._rows.move_to_end(key)
            return self._rows[key]

    def add(self, key: str, rows: Tensor) -> None:
        """Holds rows, unless they alone are more than the budget, or on a device where none are held."""
        if rows.nbytes > self.budget or (rows.is_cuda and not self.on_devices):
            return
        with self._lock:
            self._rows[key] = rows
            while sum(each.nbytes for each in self._rows.values()) > self.budget:
                self._rows.popitem(last=False)


_shared: ContextVar[SharedRows | None] = ContextVar("pyllmclf_shared_rows", default=None)


@contextmanager
def sharing_rows(rows: SharedRows | None = None, device: torch.device | None = None) -> Iterator[SharedRows]:
    """Lets the trainings in the block share the rows that they keep in memory; a block within another one takes part.

    Parameters
    ----------
    rows : SharedRows, optional
        By default new ones, that take at most a quarter of the memory that is free, beside those of the training at
        hand.
    device : torch.device, optional
        Of the trainings, whose memory bounds new rows, too.
    """
    outer = _shared.get()
    shared = outer or rows or SharedRows.of_free_memory(SHARE, device)
    token = _shared.set(shared)
    try:
        yield shared
    finally:
        _shared.reset(token)


@cache
def rows_of_process() -> SharedRows:
    """Rows that all trainings of this process may share, as those of a grid search over an estimator do."""
    return SharedRows.of_free_memory(SHARE_OF_PROCESS, on_devices=False)


def shared_rows() -> SharedRows | None:
    """The rows of :func:`sharing_rows`; ``None`` outside of its block."""
    return _shared.get()
