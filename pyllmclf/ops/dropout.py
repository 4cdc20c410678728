"""Dropout of packed rows, with the masks of :mod:`pyllmclf.ops.philox`."""

from __future__ import annotations

from types import ModuleType

import torch
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from .backends import native_cpu, reference
from .backends import triton as triton_backend
from .dispatch import Choice, choices, implementation
from .functions import apply
from .philox import DropoutKey, check_rate

choices(
    "dropout",
    cpu=Choice("native", "vectorised generator", triton=True),
    cuda=Choice("triton", "the generator in one kernel", native="no", triton=True),
)


def dropout(x: torch.Tensor, p: float, key: DropoutKey) -> torch.Tensor:
    """Sets each element to zero with probability ``p`` and scales the others by ``1 / (1 - p)``.

    Parameters
    ----------
    x : tensor, shape [rows, channels]
    p : float
        In [0, 1 - 2**-32].
    key : DropoutKey
        Determines the mask.

    Returns
    -------
    tensor, shape [rows, channels]
        In the dtype of ``x``.

    Raises
    ------
    UsageError
        If ``p`` is no such rate, the key has another number of rows, or the chosen backend can't compute this.
    """
    check_rate("dropout", p)
    if p == 0.0:
        return x
    if x.dim() != 2 or not len(key.row_example_ids) == len(key.row_positions) == len(x):
        raise UsageError(f"dropout: a key of {len(key.row_positions)} rows doesn't fit x of shape {tuple(x.shape)}.")
    chosen = implementation("dropout", x)
    if chosen in ("native", "triton"):
        return apply(DropoutFunction, x, p, key, native_cpu if chosen == "native" else triton_backend)
    return reference.dropout(x, p, key)


class DropoutFunction(torch.autograd.Function):
    """Saves no tensor: the backward pass recomputes the mask."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, p: float, key: DropoutKey, kernels: ModuleType) -> torch.Tensor:
        ctx.p, ctx.key, ctx.kernels = p, key, kernels
        return kernels.dropout_rows(x, p, key)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: torch.Tensor):
        return ctx.kernels.dropout_rows(dy, ctx.p, ctx.key), None, None, None
