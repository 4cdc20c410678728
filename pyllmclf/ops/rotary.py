"""Rotary position embedding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from . import dispatch
from .backends import native_cpu, reference
from .dispatch import Choice, choices
from .functions import apply

choices(
    "rotary",
    cpu=Choice("native", "one pass over the rows"),
    cuda=Choice("reference", "torch's own ops", native="no"),
)


def rotary_angles(positions: Tensor, inverse_frequencies: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle position * inverse frequency, times a factor.

    Parameters
    ----------
    positions : int tensor, shape [rows]
    inverse_frequencies : fp32 tensor, shape [head_dim / 2]
        Angle per position of each pair of channels; theta^(-2 i / head_dim) in Su et al. 2021.
    factor : float
        Of both; scalings of positions for long texts have one other than 1.

    Returns
    -------
    (tensor, tensor), each fp32, shape [rows, head_dim / 2]
    """
    angles = positions[:, None].float() * inverse_frequencies
    cosine, sine = angles.cos(), angles.sin()
    return (cosine, sine) if factor == 1.0 else (cosine * factor, sine * factor)


def rotary(x: Tensor, cosine: Tensor, sine: Tensor, *, heads: int) -> Tensor:
    """Rotates each pair of channels (i, i + head_dim / 2) of a head by the angle of its row.

    Su et al. 2021, with the channel pairs of GPT-NeoX, Llama and ModernBERT.

    Parameters
    ----------
    x : tensor, shape [rows, width]
        Each row holds one head after the other.
    cosine, sine : fp32 tensor, shape [rows, head_dim / 2]
        Of :func:`rotary_angles`.
    heads : int
        Number of heads that are rotated, from the first; the other channels stay as they are.

    Returns
    -------
    tensor, shape [rows, width]
        In the dtype of ``x``.

    Raises
    ------
    UsageError
        If shapes don't fit each other, or the chosen backend can't compute this.
    """
    fits = x.dim() == cosine.dim() == 2 and cosine.shape == sine.shape and len(cosine) == len(x)
    if not fits or 2 * heads * cosine.shape[1] > x.shape[1]:
        shapes = [tuple(t.shape) for t in (cosine, sine)]
        raise UsageError(f"rotary: {heads} heads and angles of shapes {shapes} don't fit rows of {tuple(x.shape)}.")
    if dispatch.implementation("rotary", x, cosine, sine) == "native" and x.numel() > 0:
        return apply(RotaryFunction, x, cosine, sine, heads)
    return apply(ReferenceRotaryFunction, x, cosine, sine, heads)


class RotaryFunction(torch.autograd.Function):
    """Saves the angles; the backward pass rotates by their negatives."""

    @staticmethod
    def forward(ctx, x: Tensor, cosine: Tensor, sine: Tensor, heads: int) -> Tensor:
        cosine, sine = cosine.contiguous(), sine.contiguous()
        ctx.save_for_backward(cosine, sine)
        ctx.heads = heads
        return native_cpu.rotary_rows(x, cosine, sine, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        cosine, sine = ctx.saved_tensors
        return native_cpu.rotary_rows(dy, cosine, sine, ctx.heads, inverse=True), None, None, None


class ReferenceRotaryFunction(torch.autograd.Function):
    """As :class:`RotaryFunction`, in torch's ops."""

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
