"""Isolation from the caller's torch state: grad mode, autocast, default dtype and default device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

# All threads share the default dtype: the last block to end, in any thread, restores the caller's.
_lock = threading.Lock()
_users = 0
_callers_dtype = torch.float32


@contextmanager
def own_torch_state() -> Iterator[None]:
    """Sets torch's initial state within the block: gradients on, no autocast, float32, CPU.

    The package chooses dtypes and devices by its own arguments. The caller's state is restored at the end of the block.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # only where needed: it slows down every call of torch
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_float32_by_default())
        yield


@contextmanager
def _float32_by_default() -> Iterator[None]:
    global _users, _callers_dtype
    with _lock:
        if _users == 0:
            _callers_dtype = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                torch.set_default_dtype(_callers_dtype)
