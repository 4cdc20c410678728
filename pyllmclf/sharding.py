"""Models of which each process holds a part: torch's FSDP2 (``fully_shard``), by whole blocks.

Every function here that is given tensors of such a model is called by all processes alike: each has to give its part.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from .distributed import Processes, lost_processes
from .models.sequence_classifier import SequenceClassifier

if TYPE_CHECKING:  # half a second to import, for one process alone of no use
    from torch.distributed.tensor import DTensor


def shard(model: SequenceClassifier, group: Processes, device: torch.device, dtype: torch.dtype) -> None:
    """Leaves each process its part of every parameter, of the first process's model; done in place.

    A block's parameters are gathered when it is computed, in the dtype of the computation, and let go afterwards. So
    are, until the end of the backward pass and in fp32, those outside of the blocks. Gradients are the mean over all
    processes, in fp32.

    Parameters
    ----------
    model : SequenceClassifier
        On its device.
    group : Processes
    device : torch.device
    dtype : torch.dtype
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    with lost_processes():
        for parameter in model.parameters():
            group.broadcast(parameter.detach())
        mesh = init_device_mesh(device.type, (group.count,))
        # What blocks compute with is cast to the rows' dtype anyway: cast before, half as many bytes travel.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in model.backbone.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` was called."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def _is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory; of one that is not sharded, all."""
    return tensor.to_local() if _is_part(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, in every process."""
    if not _is_part(tensor):
        return tensor
    with lost_processes():
        return tensor.full_tensor()


def whole_tensors(tensors: Mapping[str, Tensor], device: torch.device | str, *, keep: bool = True) -> dict[str, Tensor]:
    """All of some tensors, on a device; none where the process is not to ``keep`` them."""
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if keep:
            found[name] = value.to(device).contiguous()
    return found


def ordinary_model(model: SequenceClassifier, parameters: Mapping[str, Tensor]) -> SequenceClassifier:
    """A model like another one, which is not sharded, and has these parameters."""
    # They are put in the place of its own, whose memory is not touched.
    found = SequenceClassifier(model.config, model.head.weight.shape[0], model.spec)
    found.load_state_dict(parameters, assign=True)
    return found.to(found.head.weight.device)


@torch.no_grad()
def put(target: Tensor, value: Tensor | None, group: Processes) -> None:
    """Writes what the first process gives into a tensor, or into each process's part of it."""
    if group.count > 1:
        received = torch.empty(target.shape, dtype=target.dtype, device=target.device)
        if value is not None:
            received.copy_(value)
        value = group.broadcast(received)
    assert value is not None
    if _is_part(target):
        from torch.distributed.tensor import distribute_tensor

        value = own_part(distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None))
    own_part(target).copy_(value)
