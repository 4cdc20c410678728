"""Layer normalisation, with the residual addition before it."""

from __future__ import annotations

from typing import overload

from torch import Tensor

from . import reference


@overload
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, residual: None = None) -> Tensor: ...
@overload
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, residual: Tensor) -> tuple[Tensor, Tensor]: ...


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al. 2016).

    Parameters
    ----------
    x : tensor, shape [rows, width]
    weight, bias : tensor, shape [width]
    eps : float
    residual : tensor, shape [rows, width], optional
        Added to ``x`` first.

    Returns
    -------
    tensor, shape [rows, width]
        With ``residual``: (the norm of the sum, the sum).
    """
    if residual is None:
        return reference.layer_norm(x, weight, bias, eps)
    summed = x + residual
    return reference.layer_norm(summed, weight, bias, eps), summed
