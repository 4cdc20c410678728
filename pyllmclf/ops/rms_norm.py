"""Root mean square normalisation, optionally with the residual addition before it."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from . import dispatch
from .backends import native_cpu, reference
from .dispatch import Choice, choices
from .functions import apply

choices(
    "rms_norm",
    cpu=Choice("native", "one pass with the residual"),
    cuda=Choice("reference", "torch's own ops", native="no"),
)


@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: None = None, *, offset: float = 0.0) -> Tensor: ...
@overload
def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor, *, offset: float = 0.0
) -> tuple[Tensor, Tensor]: ...


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, *, offset: float = 0.0
) -> Tensor | tuple[Tensor, Tensor]:
    """Computes x / sqrt(mean(x^2) + eps) * (offset + weight) over the last axis (Zhang and Sennrich 2019).

    Parameters
    ----------
    x : tensor, shape [rows, width]
    weight : tensor, shape [width]
    eps : float
    residual : tensor, shape [rows, width], optional
        Added to ``x`` before the norm.
    offset : float
        Added to the weight; Gemma's weights are stored less 1.

    Returns
    -------
    y : tensor, shape [rows, width]
        In the dtype of ``x``.
    sum : tensor, shape [rows, width]
        ``x + residual``; returned with a residual only.

    Raises
    ------
    UsageError
        If shapes don't fit each other, or the chosen backend can't compute this.
    """
    if x.dim() != 2 or weight.shape != x.shape[1:] or (residual is not None and residual.shape != x.shape):
        shapes = [tuple(t.shape) for t in (x, weight, residual) if t is not None]
        raise UsageError(f"rms_norm: shapes {shapes} of x, weight (and residual) don't fit.")
    if dispatch.implementation("rms_norm", x, weight, residual) == "native" and x.numel() > 0:
        y, summed = apply(RmsNormFunction, x, residual, weight, eps, offset)
        return y if residual is None else (y, summed)
    if residual is None:
        return reference.rms_norm(x, weight, eps, offset)
    summed = x + residual
    return reference.rms_norm(summed, weight, eps, offset), summed


class RmsNormFunction(torch.autograd.Function):
    """Saves x + residual, and the inverse root mean square of each row. Returns (norm, sum or None)."""

    @staticmethod
    def forward(ctx, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, offset: float):
        ctx.set_materialize_grads(False)
        y, summed, rstd = native_cpu.rms_norm_forward(x, residual, weight, eps, offset)
        ctx.save_for_backward(summed, weight, rstd)
        ctx.offset = offset
        return y, None if residual is None else summed

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor | None, dsum: Tensor | None):
        if dy is None:  # nothing used the norm
            return dsum, dsum, None, None, None
        needs_x, needs_residual, needs_weight, *_ = ctx.needs_input_grad
        summed, weight, rstd = ctx.saved_tensors
        ds, dweight = native_cpu.rms_norm_backward(
            dy,
            dsum,
            summed,
            weight,
            rstd,
            ctx.offset,
            input_needed=needs_x or needs_residual,
            weight_needed=needs_weight,
        )
        return ds, ds if needs_residual else None, dweight, None, None
