"""DistributedDataParallel or FSDP2: the choice, and the model wrapped in it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..compute import Compute
from ..distributed import ProcessGroup
from ..memory import available_memory
from ..models.architectures.registry import architecture_of
from ..models.context import hidden_dtype
from ..models.sequence_classifier import SequenceClassifier
from ..sharding import shard

# Largest share of the free memory for gradients, moments and parameter copies; the rest is for activations.
STATE_SHARE = 0.75


def choose_strategy(strategy: str, model: SequenceClassifier, group: ProcessGroup, compute: Compute) -> str:
    """Resolves the strategy: ``"auto"`` is ``"fsdp"`` where a process has no memory for the whole training state.

    Parameters
    ----------
    strategy : {"auto", "ddp", "fsdp"}
    model : SequenceClassifier
        On its device, with ``requires_grad`` set.
    group : ProcessGroup
    compute : Compute

    Returns
    -------
    {"ddp", "fsdp"}
    """
    if group.world_size == 1:
        return "ddp"
    if strategy != "auto":
        return strategy
    if not all(parameter.requires_grad for parameter in model.parameters()):
        return "ddp"
    # Gradient and AdamW's two moments in fp32, and a copy in the dtype of the computation.
    dtype = hidden_dtype(compute.dtype, compute.device)
    bytes_per_parameter = 12 + (0 if dtype == torch.float32 else dtype.itemsize)
    need = bytes_per_parameter * sum(parameter.numel() for parameter in model.parameters())
    on_gpu = compute.device.type == "cuda"
    free = torch.cuda.mem_get_info(compute.device)[0] if on_gpu else available_memory() // group.local_world_size
    return "fsdp" if group.any(need > STATE_SHARE * free) else "ddp"


def wrap_model(model: SequenceClassifier, strategy: str, group: ProcessGroup, compute: Compute) -> nn.Module:
    """Prepares the model's parameters for several processes; returns the module whose forward pass trains it.

    Parameters
    ----------
    model : SequenceClassifier
        On its device, with ``requires_grad`` set; with ``"fsdp"`` its parameters are sharded in place.
    strategy : {"ddp", "fsdp"}
    group : ProcessGroup
    compute : Compute

    Raises
    ------
    ResourceError
        If another process is lost.
    """
    if strategy == "fsdp":
        # Blocks that are the same modules are gathered with the rest.
        blocks = [] if architecture_of(model.config).shares_layers else model.backbone.blocks
        shard(model, blocks, group, compute.device, hidden_dtype(compute.dtype, compute.device))
        return model
    return group.data_parallel(model, compute.device)


def all_reduce_with_last(wrapped: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Delays the all-reduce of a step's gradients to the backward pass of its last micro-batch."""
    return nullcontext() if last or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync()
