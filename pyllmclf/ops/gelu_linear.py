"""GELU followed by a linear layer, as one op that saves less for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import dispatch
from .backends import native_cpu
from .functions import apply
from .gelu import check_bias, check_formula, gelu
from .gradients import gradient_buffer
from .linear import check_shapes, linear, linear_gradients, product, rounded, rounding, unless_kept


def gelu_linear(
    x: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    out_bias: Tensor | None,
    approximate: str = "tanh",
    *,
    operands: torch.dtype | None = None,
) -> Tensor:
    """Computes GELU(x + b) Wᵀ + c; the backward pass recomputes the GELU instead of saving it.

    Parameters
    ----------
    x : tensor, shape [rows, in]
    bias : tensor, shape [in], optional
    weight : tensor, shape [out, in]
    out_bias : tensor, shape [out], optional
    approximate : {"tanh", "none"}
        As for :func:`gelu`.
    operands : torch.dtype, optional
        As for :func:`linear`.

    Returns
    -------
    tensor, shape [rows, out]
        In the dtype of ``x``, or that of autocast.

    Raises
    ------
    UsageError
        If shapes don't fit each other, or the chosen backend can't compute this.
    """
    check_formula(approximate)
    check_bias(x, bias)
    check_shapes("gelu_linear", x, weight, out_bias)
    if (
        not x.is_cuda
        and dispatch.implementation("linear", x, bias, unless_kept(weight, operands), out_bias) == "native"
    ):
        return apply(GeluLinearFunction, x, bias, weight, out_bias, approximate, operands)
    return linear(gelu(x, bias, approximate), weight, out_bias, operands=operands)


class GeluLinearFunction(torch.autograd.Function):
    """Saves only x: the widest tensor of a block once instead of twice."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        bias: Tensor | None,
        weight: Tensor,
        out_bias: Tensor | None,
        approximate: str,
        operands: torch.dtype | None,
    ) -> Tensor:
        x, bias = x.contiguous(), None if bias is None else bias.contiguous()
        ctx.save_for_backward(x, bias, weight)
        ctx.approximate, ctx.buffer, ctx.operands = approximate, gradient_buffer(weight), operands
        return product(_hidden(x, bias, approximate, operands), weight, out_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, bias, weight = ctx.saved_tensors
        needs_x, needs_bias, needs_weight, needs_out_bias, *_ = ctx.needs_input_grad
        dx = dbias = None
        dout_bias = dy.sum(0) if needs_out_bias else None
        dhidden, dweight = linear_gradients(
            ctx.buffer,
            rounded(dy, ctx.operands),
            lambda: _hidden(x, bias, ctx.approximate, ctx.operands),
            weight,
            input_needed=needs_x or needs_bias,
            weight_needed=needs_weight,
        )
        if dhidden is not None:
            dx, dbias = native_cpu.gelu_backward(
                dhidden, x, bias, ctx.approximate, bias_needed=needs_bias, in_place=True
            )
        return dx, dbias, dweight, dout_bias, None, None


def _hidden(x: Tensor, bias: Tensor | None, approximate: str, operands: torch.dtype | None) -> Tensor:
    """GELU(x + b) as the product takes it."""
    rounds = rounding(x, operands) is not None and x.shape[1] % 2 == 0  # to_bf16 pads odd widths
    if rounds:
        return native_cpu.gelu_forward(x, bias, approximate, torch.bfloat16)
    return rounded(native_cpu.gelu_forward(x, bias, approximate), operands)
