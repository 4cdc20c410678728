"""The caller's state of Python's ``random``, which some libraries change when they are imported."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def keeps_random_state() -> Iterator[None]:
    """Restores the state at the end of the block, in which no code of the caller runs."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
