"""Models sharded over processes: torch's FSDP2 (``fully_shard``), by whole blocks.

All processes call the functions that take tensors of a sharded model alike: each contributes its shard.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from .distributed import ProcessGroup, lost_processes

if TYPE_CHECKING:  # takes half a second to import, of no use to a single process
    from torch.distributed.tensor import DTensor


def shard(
    model: nn.Module, blocks: Iterable[nn.Module], group: ProcessGroup, device: torch.device, dtype: torch.dtype
) -> None:
    """Leaves each process its shard of every parameter of the first process's model; in place.

    A block's parameters are gathered when it is computed, in the dtype of the computation, and freed afterwards.
    Parameters outside of the blocks are gathered in fp32 and freed at the end of the backward pass. Gradients are the
    mean over all processes, in fp32.

    Parameters
    ----------
    model : Module
        On its device.
    blocks : iterable of Module
        Its transformer blocks.
    group : ProcessGroup
    device : torch.device
    dtype : torch.dtype
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    with lost_processes():
        for parameter in model.parameters():
            group.broadcast(parameter.detach())
        mesh = init_device_mesh(device.type, (group.world_size,))
        # Blocks cast their parameters to the activations' dtype anyway: cast before, half as many bytes travel.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` was called."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def _is_dtensor(tensor: Tensor) -> TypeGuard[DTensor]:
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def local_tensor(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, in the same memory; a tensor that is not sharded as it is."""
    return tensor.to_local() if _is_dtensor(tensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor, in every process."""
    if not _is_dtensor(tensor):
        return tensor
    with lost_processes():
        return tensor.full_tensor()


def full_tensors(tensors: Mapping[str, Tensor], device: torch.device | str, *, keep: bool = True) -> dict[str, Tensor]:
    """Full tensors on a device; an empty dict where the process is not to ``keep`` them."""
    found = {}
    for name, tensor in tensors.items():
        value = full_tensor(tensor.detach())
        if keep:
            found[name] = value.to(device).contiguous()
    return found


@torch.no_grad()
def copy_from_first(target: Tensor, value: Tensor | None, group: ProcessGroup) -> None:
    """Writes the first process's value into a tensor, or its shards into the processes' shards."""
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
