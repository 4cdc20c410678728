"""Gaussian error linear unit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from . import dispatch
from .backends import reference
from .dispatch import UNMEASURED, Choice, choices
from .functions import apply

choices(
    "gelu",
    cpu=Choice("native", "with the bias and its gradient in one pass"),
    cuda=Choice("reference", UNMEASURED),
)


def gelu(x: Tensor, bias: Tensor | None = None, approximate: str = "tanh") -> Tensor:
    """Computes GELU(x + bias) (Hendrycks and Gimpel 2016).

    Parameters
    ----------
    x : tensor, shape [rows, channels]
    bias : tensor, shape [channels], optional
    approximate : {"tanh", "none"}
        The tanh formula of GPT-2, or the error function, as in BERT.

    Returns
    -------
    tensor, shape [rows, channels]
        In the dtype of ``x``.

    Raises
    ------
    UsageError
        If the formula is unknown, the bias has another shape, or the chosen backend can't compute this.
    """
    check_formula(approximate)
    check_bias(x, bias)
    if dispatch.implementation("gelu", x, bias) == "native":
        return apply(GeluFunction, x, bias, approximate)
    return reference.gelu(x, bias, approximate)


def check_formula(approximate: str) -> None:
    """Raises :class:`UsageError` unless the formula is "tanh" or "none"."""
    if approximate not in ("tanh", "none"):
        raise UsageError(f"gelu: approximate={approximate!r} is unknown; it is 'tanh' or 'none'.")


def check_bias(x: Tensor, bias: Tensor | None) -> None:
    """Raises :class:`UsageError` unless the bias has one number per channel."""
    if bias is not None and bias.shape != x.shape[-1:]:
        raise UsageError(f"gelu: a bias of shape {tuple(bias.shape)} doesn't fit rows of shape {tuple(x.shape)}.")


class GeluFunction(torch.autograd.Function):
    """Saves x and the bias; one backward pass computes both gradients."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
        x, bias = x.contiguous(), None if bias is None else bias.contiguous()
        ctx.save_for_backward(x, bias)
        ctx.approximate = approximate
        return dispatch.kernels(x).gelu_forward(x, bias, approximate)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, bias = ctx.saved_tensors
        dx, dbias = dispatch.kernels(x).gelu_backward(dy, x, bias, ctx.approximate, bias_needed=ctx.needs_input_grad[1])
        return dx, dbias, None
