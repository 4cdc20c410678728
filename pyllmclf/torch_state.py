"""What torch computes with, whatever the caller has set for its own work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


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
        # Both only where they are needed: one slows every call down, the other holds for all threads.
        if torch.get_default_device().type != "cpu":
            held.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            held.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
