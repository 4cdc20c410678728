"""How processes share a model: each has all of it, or a part."""

from __future__ import annotations

import torch

from ..compute import Compute
from ..distributed import ProcessGroup
from ..memory import available_memory
from ..models.sequence_classifier import SequenceClassifier

# Of the free memory, what a training's state may take; the rest is for rows.
STATE_SHARE = 0.75


def choose_strategy(strategy: str, model: SequenceClassifier, group: ProcessGroup, compute: Compute) -> str:
    """``"ddp"`` or ``"fsdp"``; for ``"auto"`` the latter where one process has no memory for all of the state.

    Parameters
    ----------
    strategy : {"auto", "ddp", "fsdp"}
    model : SequenceClassifier
        On its device, with ``requires_grad`` set.
    group : ProcessGroup
    compute : Compute
    """
    if group.world_size == 1:
        return "ddp"
    if strategy != "auto":
        return strategy
    if not all(parameter.requires_grad for parameter in model.parameters()):
        return "ddp"
    # Gradient and both of AdamW's moments in fp32, and a copy in the dtype of the computation.
    each = 12 + (0 if compute.dtype == torch.float32 else compute.dtype.itemsize)
    need = each * sum(parameter.numel() for parameter in model.parameters())
    own_device = compute.device.type == "cuda"
    free = torch.cuda.mem_get_info(compute.device)[0] if own_device else available_memory() // group.local_world_size
    return "fsdp" if group.any(need > STATE_SHARE * free) else "ddp"
