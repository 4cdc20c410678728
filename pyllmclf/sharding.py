"""Models sharded over processes by torch's FSDP2 (``fully_shard``), one unit per block.

Functions that take tensors of a sharded model are collective: all processes call them with their shards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from .distributed import ProcessGroup, lost_processes

if TYPE_CHECKING:  # the import takes half a second, which a single process saves
    from torch.distributed.tensor import DTensor


def shard(
    model: nn.Module, blocks: Iterable[nn.Module], group: ProcessGroup, device: torch.device, dtype: torch.dtype
) -> None:
    """Shards the first process's parameters over all processes, in place.

    A block's parameters are all-gathered before it is computed, in the dtype of the computation, and freed afterwards.
    Parameters outside of the blocks are gathered in fp32 and freed at the end of the backward pass. Gradients are
    averaged over all processes, in fp32.

    Parameters
    ----------
    model : Module
        On its device.
    blocks : iterable of Module
        The model's transformer blocks.
    group : ProcessGroup
    device : torch.device
    dtype : torch.dtype
        Dtype of the computation.

    Raises
    ------
    ResourceError
        If another process has ended or can't be reached.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    with lost_processes():
        for parameter in model.parameters():
            group.broadcast(parameter.detach())
        mesh = init_device_mesh(device.type, (group.world_size,))
        # Blocks cast their parameters to the activations' dtype anyway; casting before the all-gather halves its bytes.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` has sharded the model."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def _is_dtensor(tensor: Tensor) -> TypeGuard[DTensor]:
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def local_tensor(tensor: Tensor) -> Tensor:
    """Returns this process's shard of a tensor, in the same memory; an unsharded tensor is returned unchanged."""
    return tensor.to_local() if _is_dtensor(tensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Gathers a tensor's shards in every process; an unsharded tensor is returned unchanged."""
    if not _is_dtensor(tensor):
        return tensor
    with lost_processes():
        return tensor.full_tensor()


def full_tensors(tensors: Mapping[str, Tensor], device: torch.device | str, *, keep: bool = True) -> dict[str, Tensor]:
    """Gathers tensors on a device, one at a time; a process that doesn't ``keep`` them gets an empty dict."""
    gathered = {}
    for name, tensor in tensors.items():
        value = full_tensor(tensor.detach())
        if keep:
            gathered[name] = value.to(device).contiguous()
    return gathered


@torch.no_grad()
def copy_from_first(target: Tensor, value: Tensor | None, group: ProcessGroup) -> None:
    """Copies the first process's value into a tensor of every process, or its shards into their shards.

    ``value`` is ``None`` in the other processes; its shape is that of the full tensor.
    """
    if group.world_size > 1:
        received = torch.empty(target.shape, dtype=target.dtype, device=target.device)
        if value is not None:
            received.copy_(value)
        value = group.broadcast(received)
    assert value is not None
    if _is_dtensor(target):
        from torch.distributed.tensor import distribute_tensor

        value = local_tensor(distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None))
    local_tensor(target).copy_(value)
