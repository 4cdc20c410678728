"""What torch computes with, whatever the caller has set for its own work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

# The default dtype is one for all threads: it is the caller's again when the last one that needed ours has ended.
_lock = threading.Lock()
_users = 0
_callers_dtype = torch.float32


@contextmanager
def own_torch_state() -> Iterator[None]:
    """Gradients as usual, no autocast, and tensors of float32 on the CPU where nothing else is said.

    ``dtype=`` and ``device=`` say what is computed in, and where; the caller's defaults are back afterwards.
    """
    with ExitStack() as held:
        held.enter_context(torch.inference_mode(False))
        held.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                held.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # only then: it slows every call of torch down
            held.enter_context(torch.device("cpu"))
        held.enter_context(_float32_by_default())
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
