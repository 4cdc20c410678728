"""Rows of activation caches that trainings of one process share: of the same frozen weights, texts and arithmetic."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from ..memory import available_memory

SHARE = 0.25
"""Share of the free memory that shared rows take without a budget."""


class SharedRows:
    """Rows by the hash of what they depend on; the least recently used ones make room.

    Parameters
    ----------
    budget : int
        Most bytes.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._rows: OrderedDict[str, Tensor] = OrderedDict()

    def find(self, key: str) -> Tensor | None:
        """The rows with a key; ``None`` if they are not held."""
        if key not in self._rows:
            return None
        self._rows.move_to_end(key)
        return self._rows[key]

    def add(self, key: str, rows: Tensor) -> None:
        """Holds rows, unless they alone are more than the budget."""
        if rows.nbytes > self._budget:
            return
        self._rows[key] = rows
        while sum(each.nbytes for each in self._rows.values()) > self._budget:
            self._rows.popitem(last=False)


_shared: ContextVar[SharedRows | None] = ContextVar("pyllmclf_shared_rows", default=None)


@contextmanager
def sharing_rows(budget: int | None = None) -> Iterator[None]:
    """Lets the trainings in the block share the rows that they keep in memory.

    Parameters
    ----------
    budget : int, optional
        Most bytes, beside those of the training at hand; by default a quarter of the memory that is free.
    """
    token = _shared.set(SharedRows(int(SHARE * available_memory()) if budget is None else budget))
    try:
        yield
    finally:
        _shared.reset(token)


def shared_rows() -> SharedRows | None:
    """The rows of :func:`sharing_rows`; ``None`` outside of its block."""
    return _shared.get()
