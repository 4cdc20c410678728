"""How processes share a model: each has all of it, or a part."""

from __future__ import annotations

import torch

from ..distributed import Processes
from ..errors import UsageError
from ..memory import available_memory
from ..models.sequence_classifier import SequenceClassifier

STRATEGIES = ("auto", "ddp", "fsdp")
# Of the free memory, what a training's state may take; the rest is for rows.
STATE_SHARE = 0.75


def check_strategy(strategy: str, trainable: str) -> None:
    """Raises :class:`UsageError` if there is no such strategy, or it is not for these layers."""
    if strategy not in STRATEGIES:
        raise UsageError(f"strategy={strategy!r} is unknown; it is one of {', '.join(STRATEGIES)}.")
    if strategy == "fsdp" and trainable != "all":
        raise UsageError(
            f"strategy='fsdp' is for trainable='all', not {trainable!r}: where few layers are trained, gradients and "
            "the optimizer's state, which it shares out, are small."
        )


def choose_strategy(
    strategy: str, model: SequenceClassifier, group: Processes, device: torch.device, dtype: torch.dtype
) -> str:
    """``"ddp"`` or ``"fsdp"``; for ``"auto"`` the latter where one process has no memory for all of the state.

    Parameters
    ----------
    strategy : {"auto", "ddp", "fsdp"}
    model : SequenceClassifier
        On its device, with ``requires_grad`` set.
    group : Processes
    device : torch.device
    dtype : torch.dtype
        Of the computation.
    """
    if group.count == 1:
        return "ddp"
    if strategy != "auto":
        return strategy
    if not all(parameter.requires_grad for parameter in model.parameters()):
        return "ddp"
    # Gradient and both of AdamW's moments in fp32, and a copy in the dtype of the computation.
    each = 12 + (0 if dtype == torch.float32 else dtype.itemsize)
    need = each * sum(parameter.numel() for parameter in model.parameters())
    own_device = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if own_device else available_memory() // group.local_count
    return "fsdp" if group.any(need > STATE_SHARE * free) else "ddp"
