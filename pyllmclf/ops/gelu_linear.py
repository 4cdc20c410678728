"""GELU and the linear layer behind it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import dispatch
from .backends import native_cpu
from .gelu import check_bias, check_formula, gelu
from .gradients import kept_gradient
from .linear import check_shapes, input_gradient, linear, product, weight_gradient


def gelu_linear(
    x: Tensor, bias: Tensor | None, weight: Tensor, out_bias: Tensor | None, approximate: str = "tanh"
) -> Tensor:
    """GELU(x + b) Wᵀ + c; the GELU is computed again for the weight's gradient rather than kept until then.

    Parameters
    ----------
    x : tensor, shape [rows, in]
    bias : tensor, shape [in], optional
    weight : tensor, shape [out, in]
    out_bias : tensor, shape [out], optional
    approximate : {"tanh", "none"}
        As for :func:`gelu`.

    Returns
    -------
    tensor, shape [rows, out]

    Raises
    ------
    UsageError
        If shapes don't fit each other, or the chosen backend can't compute this.
    """
    check_formula(approximate)
    check_bias(x, bias)
    check_shapes("gelu_linear", x, weight, out_bias)
    if not x.is_cuda and dispatch.implementation("linear", x, bias, weight, out_bias) == "native":
        return GeluLinearFunction.apply(x, bias, weight, out_bias, approximate)
    return linear(gelu(x, bias, approximate), weight, out_bias)


class GeluLinearFunction(torch.autograd.Function):
    """Saves x alone: the widest tensor of a block once instead of twice."""

    @staticmethod
    def forward(
        ctx, x: Tensor, bias: Tensor | None, weight: Tensor, out_bias: Tensor | None, approximate: str
    ) -> Tensor:
        x, bias = x.contiguous(), None if bias is None else bias.contiguous()
        ctx.save_for_backward(x, bias, weight)
        ctx.approximate, ctx.kept = approximate, kept_gradient(weight)
        return product(native_cpu.gelu_forward(x, bias, approximate), weight, out_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, bias, weight = ctx.saved_tensors
        needs_x, needs_bias, needs_weight, needs_out_bias, _ = ctx.needs_input_grad
        dx = dbias = dweight = dhidden = None
        dout_bias = dy.sum(0) if needs_out_bias else None
        at_once = needs_weight and ctx.kept is not None and ctx.kept.steps_at_once(dy)
        if at_once:
            hidden = native_cpu.gelu_forward(x, bias, ctx.approximate)
            dhidden = ctx.kept.step_at_once(dy, hidden, input_needed=needs_x or needs_bias)
        elif needs_x or needs_bias:
            dhidden = input_gradient(dy, weight)
        if dhidden is not None:
            dx, dbias = native_cpu.gelu_backward(
                dhidden, x, bias, ctx.approximate, bias_needed=needs_bias, in_place=True
            )
        if needs_weight and not at_once:  # last: whoever consumes it may change the weight
            dweight = weight_gradient(ctx.kept, dy, native_cpu.gelu_forward(x, bias, ctx.approximate))
        return dx, dbias, dweight, dout_bias, None
