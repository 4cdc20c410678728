"""Rotary position embedding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from .backends import reference
from .functions import apply


def rotary(x: Tensor, positions: Tensor, *, heads: int, head_dim: int, theta: float) -> Tensor:
    """Rotates each pair of channels (i, i + head_dim / 2) by the angle position * theta^(-2 i / head_dim).

    Su et al. 2021, with the channel pairs of GPT-NeoX and ModernBERT.

    Parameters
    ----------
    x : tensor, shape [rows, width]
        Each row holds one head after the other.
    positions : int tensor, shape [rows]
        Position of each row in its text.
    heads : int
        Number of heads that are rotated, from the first; the other channels stay as they are.
    head_dim : int
        Even.
    theta : float

    Returns
    -------
    tensor, shape [rows, width]
        In the dtype of ``x``.

    Raises
    ------
    UsageError
        If shapes don't fit each other.
    """
    if x.dim() != 2 or positions.shape != x.shape[:1] or head_dim % 2 or heads * head_dim > x.shape[1]:
        raise UsageError(
            f"rotary: {heads} heads of {head_dim} and positions of shape {tuple(positions.shape)} don't fit rows of "
            f"shape {tuple(x.shape)}."
        )
    cosine, sine = reference.rotary_angles(positions, head_dim, theta)
    return apply(RotaryFunction, x, cosine, sine, heads)


class RotaryFunction(torch.autograd.Function):
    """Saves the angles; the backward pass rotates by their negatives."""

    @staticmethod
    def forward(ctx, x: Tensor, cosine: Tensor, sine: Tensor, heads: int) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.heads = heads
        return reference.rotary(x, cosine, sine, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        cosine, sine = ctx.saved_tensors
        return reference.rotary(dy, cosine, -sine, ctx.heads), None, None, None
