"""Copies of frozen weights with `rank` spare rows, so that base and LoRA products run as one matmul."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# A view of a weight (storage offset, shape, strides) and the rank.
_View = tuple[int, tuple[int, ...], tuple[int, ...], int]
# The weight's count of writes, address and device; a copy is stale once they differ.
_State = tuple[int, int, torch.device]
# By the tensor that owns the weight's memory; its entry goes with it.
_copies: MutableMapping[Tensor, dict[_View, tuple[_State, Tensor]]] = WeakIdKeyDictionary()


def with_spare_rows(weight: Tensor, rank: int) -> Tensor:
    """A copy of a frozen weight below ``rank`` uninitialised rows, which the caller fills.

    The copy is cached until the weight is trained or written to (other than by ``.data``, which torch does not count).

    Parameters
    ----------
    weight : tensor, shape [depth, columns]
        One of the axes is contiguous: a layer's weight [out, in], transposed or not.
    rank : int

    Returns
    -------
    tensor, shape [rank + depth, columns]
        Same dtype, device and memory order of the axes as the weight.
    """
    owner = weight if weight._base is None else weight._base
    view = int(weight.storage_offset()), tuple(weight.shape), tuple(weight.stride()), rank
    state = owner._version, owner.data_ptr(), owner.device
    copies = _copies.setdefault(owner, {})
    entry = copies.get(view)
    if entry is None or entry[0] != state:
        depth, columns = weight.shape
        # Training can't use an inference tensor.
        with torch.inference_mode(False), torch.no_grad():
            if weight.stride(0) == 1:
                copy = weight.new_empty(columns, rank + depth).t()
            else:
                copy = weight.new_empty(rank + depth, columns)
            copy[rank:] = weight
        entry = copies[view] = state, copy
    return entry[1]


def drop_copies(weight: Tensor) -> None:
    """Drops all cached copies of a weight."""
    _copies.pop(weight if weight._base is None else weight._base, None)


def concatenated_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, thin: Tensor, factor: Tensor, scale: float
) -> Tensor:
    """Computes scale thin factor + x weight + bias as [thin | x] [scale factor; weight] + bias.

    Parameters
    ----------
    x : tensor, shape [rows, depth]
    weight : tensor, shape [depth, columns]
        Frozen; see :func:`with_spare_rows`.
    bias : tensor, shape [columns], optional
    thin : tensor, shape [rows, rank]
    factor : tensor, shape [rank, columns]
    scale : float

    Returns
    -------
    tensor, shape [rows, columns]
        Of the inputs' common dtype.
    """
    rank = len(factor)
    stacked = with_spare_rows(weight, rank)
    torch.mul(factor, scale, out=stacked[:rank])
    both = torch.cat([thin, x], dim=1)
    return both @ stacked if bias is None else torch.addmm(bias, both, stacked)
