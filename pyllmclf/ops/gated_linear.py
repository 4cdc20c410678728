"""The second half of a gated MLP, as one op that saves less for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from . import dispatch
from .backends import native_cpu, reference
from .dispatch import Choice, choices
from .functions import apply
from .gradients import gradient_buffer
from .linear import check_shapes, linear, linear_gradients, product, rounded, rounding, unless_kept

choices(
    "gated",
    cpu=Choice("native", "the activation and the product in one pass, over either half of a fused projection"),
    cuda=Choice("reference", "torch's own ops", native="no"),
)
ACTIVATIONS = native_cpu.ACTIVATIONS


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """Computes act(gate) * up (SwiGLU and GeGLU, Shazeer 2020).

    Parameters
    ----------
    gate, up : tensor, shape [rows, channels]
    activation : {"silu", "gelu_tanh", "gelu"}
        ``"gelu_tanh"`` is the tanh formula of GELU.

    Returns
    -------
    tensor, shape [rows, channels]
        In the dtype of ``gate``.

    Raises
    ------
    UsageError
        If shapes don't fit each other, the activation is unknown, or the chosen backend can't compute this.
    """
    _check(gate, up, activation)
    if dispatch.implementation("gated", gate, up) == "native" and gate.numel() > 0:
        return apply(GatedFunction, gate, up, activation)
    return reference.gated(gate, up, activation)


def gated_linear(
    gate: Tensor,
    up: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    *,
    operands: torch.dtype | None = None,
) -> Tensor:
    """Computes (act(gate) * up) Wᵀ + b; the backward pass recomputes the product instead of saving it.

    Parameters
    ----------
    gate, up : tensor, shape [rows, in]
    weight : tensor, shape [out, in]
    bias : tensor, shape [out], optional
    activation
        As for :func:`gated`.
    operands : torch.dtype, optional
        As for :func:`linear`.

    Returns
    -------
    tensor, shape [rows, out]
        In the dtype of ``gate``, or that of autocast.

    Raises
    ------
    UsageError
        As :func:`gated`.
    """
    _check(gate, up, activation)
    check_shapes("gated_linear", gate, weight, bias)
    if (
        not gate.is_cuda
        and dispatch.implementation("linear", gate, up, unless_kept(weight, operands), bias) == "native"
        and gate.numel() > 0
    ):
        return apply(GatedLinearFunction, gate, up, weight, bias, activation, operands)
    return linear(gated(gate, up, activation), weight, bias, operands=operands)


def _check(gate: Tensor, up: Tensor, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise UsageError(f"gated: activation={activation!r} is unknown; it is one of {', '.join(ACTIVATIONS)}.")
    if gate.dim() != 2 or gate.shape != up.shape:
        raise UsageError(f"gated: shapes {tuple(gate.shape)} and {tuple(up.shape)} of gate and up don't fit.")


class GatedFunction(torch.autograd.Function):
    """Saves both inputs."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return native_cpu.gated_forward(gate, up, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        gate, up = ctx.saved_tensors
        return *native_cpu.gated_backward(dy, gate, up, ctx.activation), None


class GatedLinearFunction(torch.autograd.Function):
    """Saves gate and up, but not their product."""

    @staticmethod
    def forward(
        ctx,
        gate: Tensor,
        up: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        activation: str,
        operands: torch.dtype | None,
    ) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        ctx.activation, ctx.buffer, ctx.operands = activation, gradient_buffer(weight), operands
        return product(_hidden(gate, up, activation, operands), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        gate, up, weight = ctx.saved_tensors
        needs_gate, needs_up, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        dbias = dy.sum(0) if needs_bias else None
        dgate = dup = None
        dhidden, dweight = linear_gradients(
            ctx.buffer,
            rounded(dy, ctx.operands),
            lambda: _hidden(gate, up, ctx.activation, ctx.operands),
            weight,
            input_needed=needs_gate or needs_up,
            weight_needed=needs_weight,
        )
        if dhidden is not None:
            dgate, dup = native_cpu.gated_backward(dhidden, gate, up, ctx.activation)
        return dgate, dup, dweight, dbias, None, None


def _hidden(gate: Tensor, up: Tensor, activation: str, operands: torch.dtype | None) -> Tensor:
    """act(gate) * up as the product takes it."""
    rounds = rounding(gate, operands) is not None and gate.shape[1] % 2 == 0  # to_bf16 pads odd widths
    if rounds:
        return native_cpu.gated_forward(gate, up, activation, torch.bfloat16)
    return rounded(native_cpu.gated_forward(gate, up, activation), operands)
