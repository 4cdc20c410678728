"""Frozen weights with room beside them, so that a low-rank product and theirs are one product of width depth + rank."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# Copies by the tensor whose memory the weight is (part of), gone with it; of each part and rank one, with the state of
# the weight that it was made in.
_Part = tuple[int, tuple[int, ...], tuple[int, ...], int]
_State = tuple[int, int, torch.device]
_kept: MutableMapping[Tensor, dict[_Part, tuple[_State, Tensor]]] = WeakIdKeyDictionary()


def with_room(weight: Tensor, rank: int) -> Tensor:
    """A copy of a frozen weight below rows that its caller fills.

    Made once, and kept until the weight is written to (other than by ``.data``, which torch does not count) or trained.

    Parameters
    ----------
    weight : tensor, shape [depth, columns]
        One of the axes is contiguous: a layer's weight [out, in], turned or not.
    rank : int

    Returns
    -------
    tensor, shape [rank + depth, columns]
        In the order of the weight's axes in memory.
    """
    owner = weight if weight._base is None else weight._base
    part = int(weight.storage_offset()), tuple(weight.shape), tuple(weight.stride()), rank
    state = owner._version, owner.data_ptr(), owner.device
    parts = _kept.setdefault(owner, {})
    found = parts.get(part)
    if found is None or found[0] != state:
        depth, columns = weight.shape
        # Not an inference tensor, which later training could not use.
        with torch.inference_mode(False), torch.no_grad():
            if weight.stride(0) == 1:
                room = weight.new_empty(columns, rank + depth).t()
            else:
                room = weight.new_empty(rank + depth, columns)
            room[rank:] = weight
        found = parts[part] = state, room
    return found[1]


def forget_room(weight: Tensor) -> None:
    """Lets go of a weight's copies."""
    _kept.pop(weight if weight._base is None else weight._base, None)


def concatenated_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, thin: Tensor, factor: Tensor, scale: float
) -> Tensor:
    """scale thin factor + x weight + bias as [thin | x] [scale factor; weight] + bias.

    Parameters
    ----------
    x : tensor, shape [rows, depth]
    weight : tensor, shape [depth, columns]
        Frozen.
    bias : tensor, shape [columns], optional
    thin : tensor, shape [rows, rank]
    factor : tensor, shape [rank, columns]
    scale : float

    Returns
    -------
    tensor, shape [rows, columns]
    """
    rank = len(factor)
    stacked = with_room(weight, rank)
    torch.mul(factor, scale, out=stacked[:rank])
    both = torch.cat([thin, x], dim=1)
    return both @ stacked if bias is None else torch.addmm(bias, both, stacked)
