"""Linear layer with a low-rank adapter (LoRA)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from .backends import native_cpu, reference
from .backends import triton as triton_backend
from .backends.triton import readable
from .concatenated import concatenated_product, drop_copies
from .dispatch import Choice, active_backend, choices, implementation
from .functions import apply
from .gradients import transposed_product
from .linear import check_shapes, input_gradient, product, rounding, unless_kept
from .philox import DropoutKey, check_rate

if TYPE_CHECKING:
    from ..kernels.philox import Dropout

choices(
    "lora_linear",
    cpu=Choice("native", "torch's matmuls, added up in place", triton=True),
    cuda=Choice(
        "triton",
        "torch's matmuls, added up in place; fused where that was measured to be faster",
        native="needless",
        triton=True,
    ),
)


def lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    *,
    scaling: float,
    dropout_p: float = 0.0,
    dropout_key: DropoutKey | None = None,
    operands: torch.dtype | None = None,
) -> Tensor:
    """Computes x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ (Hu et al. 2021, equation 3).

    Parameters
    ----------
    x : tensor, shape [rows, in]
    weight : tensor, shape [out, in]
    bias : tensor, shape [out], optional
    lora_a : tensor, shape [rank, in]
    lora_b : tensor, shape [out, rank]
    scaling : float
    dropout_p : float
        Dropout rate of the low-rank part's input.
    dropout_key : DropoutKey, optional
        Required if ``dropout_p`` is not 0.
    operands : torch.dtype, optional
        As for :func:`pyllmclf.ops.linear`; the low-rank products are rounded, too.

    Returns
    -------
    tensor, shape [rows, out]
        In the dtype of ``x``, or that of autocast.

    Raises
    ------
    UsageError
        If shapes don't fit each other, dropout has no key, or the chosen backend can't compute this.
    """
    check_shapes("lora_linear", x, weight, bias)
    if (*lora_b.shape, *lora_a.shape) != (weight.shape[0], lora_a.shape[0], lora_a.shape[0], weight.shape[1]):
        shapes = f"{tuple(lora_a.shape)} and {tuple(lora_b.shape)}"
        raise UsageError(f"lora_linear: A and B of shapes {shapes} don't fit a weight of shape {tuple(weight.shape)}.")
    check_rate("lora_linear", dropout_p)
    if dropout_p > 0.0 and dropout_key is None:
        raise UsageError("lora_linear: dropout needs a dropout_key.")
    chosen = implementation("lora_linear", x, unless_kept(weight, operands), bias, lora_a, lora_b)
    operands = rounding(x, operands)
    if chosen in ("native", "triton") and operands is not None and x.is_cpu:
        drop = None
        if dropout_p > 0.0 and dropout_key is not None:
            drop = partial(native_cpu.dropout_rows, p=dropout_p, key=dropout_key)
        return apply(RoundedLoRALinearFunction, x, weight, bias, lora_a, lora_b, scaling, drop)
    if chosen in ("native", "triton") and operands is None:
        way = _way(chosen, x, weight, lora_a, dropout_p, dropout_key)
        return apply(LoRALinearFunction, x, weight, bias, lora_a, lora_b, scaling, way)
    return reference.lora_linear(
        x,
        weight,
        bias,
        lora_a,
        lora_b,
        scaling=scaling,
        dropout_p=dropout_p,
        dropout_key=dropout_key,
        operands=operands,
    )


@dataclass(frozen=True)
class Way:
    """How the products of one call are computed.

    Attributes
    ----------
    forward, input_gradient : {"in place", "fused", "concatenated"}
        "in place": a library matmul, to which the low-rank product is added. "fused": Triton's matmul, whose
        accumulator starts at the low-rank product. "concatenated": one library matmul over depth + rank.
    thin : {"in place", "fused"}
        How dS and dB are computed: by two library matmuls, or by Triton in one pass over dY.
    drop : callable, or None
        Applies dropout to the rows of a tensor.
    mask : Dropout, or None
        Dropout for Triton's matmul.
    """

    forward: str = "in place"
    input_gradient: str = "in place"
    thin: str = "in place"
    drop: Callable[[Tensor], Tensor] | None = None
    mask: Dropout | None = None


# If a 16-bit matrix's width is a multiple of this, its rows start at multiples of 16 bytes, as fast matmuls need.
ALIGNED = 8


def _way(chosen: str, x: Tensor, weight: Tensor, lora_a: Tensor, p: float, key: DropoutKey | None) -> Way:
    kernels = native_cpu if chosen == "native" else triton_backend
    drop = partial(kernels.dropout_rows, p=p, key=key) if p > 0.0 and key is not None else None
    if chosen == "native":
        return Way(drop=drop)
    rank = len(lora_a)
    # backend="triton" always runs the kernels; "auto" runs them where they were measured to be faster.
    forward, input_gradient, thin = triton_backend.lora_ways(x, weight, rank, forced=active_backend() == "triton")
    if weight.requires_grad:
        drop_copies(weight)  # torch does not count the fused optimizer's writes
    can_concatenate = not weight.requires_grad and not weight.is_inference() and rank % ALIGNED == 0
    if forward == "concatenated" and not can_concatenate:
        forward = "in place"
    if input_gradient == "concatenated" and not (can_concatenate and drop is None):
        input_gradient = "in place"
    mask = None
    if drop is not None and key is not None and input_gradient == "fused":
        mask = triton_backend.row_dropout(p, key)
    return Way(forward, input_gradient, thin, drop, mask)


class LoRALinearFunction(torch.autograd.Function):
    """Saves x and the thin product S = drop(x) Aᵀ.

    Forward: y = x Wᵀ + b + s S Bᵀ. Backward: dS = s dY B, dX = dY W + drop(dS A), dA = dSᵀ drop(x), dB = s dYᵀ S; the
    dropout mask is recomputed. :class:`Way` selects how y, dX, dS and dB are computed.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, lora_a, lora_b, scaling: float, way: Way):
        thin = (x if way.drop is None else way.drop(x)) @ lora_a.t()
        ctx.save_for_backward(x, weight, lora_a, lora_b, thin)
        ctx.scaling, ctx.way = scaling, way
        if way.forward != "in place":
            return _sum_of_products(way.forward, x, weight.t(), bias, thin, lora_b.t(), scaling)
        return product(x, weight, bias).addmm_(thin, lora_b.t(), alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, weight, lora_a, lora_b, thin = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_a, needs_b, *_ = ctx.needs_input_grad
        way, dx, dweight, dbias, da = ctx.way, None, None, None, None
        dthin, db = _thin_gradients(
            way, dy, thin, lora_b, ctx.scaling, thin_needed=needs_x or needs_a, b_needed=needs_b
        )
        if needs_x:
            dx = _input_gradient(way, dy, weight, dthin, lora_a)
        if needs_a:
            da = dthin.t() @ (x if way.drop is None else way.drop(x))
        if needs_weight:
            dweight = dy.t() @ x
        if needs_bias:
            dbias = dy.sum(0)
        return dx, dweight, dbias, da, db, None, None


class RoundedLoRALinearFunction(torch.autograd.Function):
    """As :class:`LoRALinearFunction` with operands in bf16: a product and the low-rank one run as one product of inner
    width in + rank. Saves drop(x) and S in bf16, and x if the weight is trained."""

    @staticmethod
    def forward(ctx, x, weight, bias, lora_a, lora_b, scaling: float, drop: Callable[[Tensor], Tensor] | None):
        rows = native_cpu.to_bf16(x)
        dropped = rows if drop is None else native_cpu.to_bf16(drop(x))
        thin = native_cpu.to_bf16(native_cpu.bf16_linear(dropped, lora_a))
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, dropped, weight, lora_a, lora_b, thin)
        ctx.scaling, ctx.drop = scaling, drop
        return native_cpu.bf16_linear(rows, weight, bias, adapter=(thin, lora_b, scaling))

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, dropped, weight, lora_a, lora_b, thin = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_a, needs_b, *_ = ctx.needs_input_grad
        scaling, drop, dx = ctx.scaling, ctx.drop, None
        rows = native_cpu.to_bf16(dy)
        dthin = native_cpu.to_bf16(native_cpu.bf16_linear(rows, lora_b, transposed=True, scale=scaling))
        if needs_x and drop is None:
            dx = native_cpu.bf16_linear(rows, weight, transposed=True, adapter=(dthin, lora_a, 1.0))
        elif needs_x:
            dx = native_cpu.bf16_linear(rows, weight, transposed=True)
            dx.add_(drop(native_cpu.bf16_linear(dthin, lora_a, transposed=True)))
        da = transposed_product(dthin, dropped) if needs_a else None
        # With the thin matrix first: the fast order.
        db = _scaled(transposed_product(thin, rows), scaling).t() if needs_b else None
        dweight = transposed_product(rows, x) if needs_weight else None
        return dx, dweight, dy.sum(0) if needs_bias else None, da, db, None, None


def _sum_of_products(
    how: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    thin: Tensor,
    factor: Tensor,
    scale: float,
    mask: Dropout | None = None,
) -> Tensor:
    """Computes scale drop(thin factor) + x weight + bias, "fused" or "concatenated" (without dropout)."""
    if how == "concatenated":
        return concatenated_product(x, weight, bias, thin, factor, scale)
    from ..kernels.lora_linear import product_with_low_rank

    return product_with_low_rank(readable(x), weight, bias, thin, factor, scale, mask)


def _thin_gradients(
    way: Way, dy: Tensor, thin: Tensor, lora_b: Tensor, scaling: float, *, thin_needed: bool, b_needed: bool
) -> tuple[Tensor, Tensor | None]:
    """Returns (dS, dB); a result that is not needed is undefined."""
    if way.thin == "fused" and thin_needed and b_needed:
        from ..kernels.lora_linear import thin_gradients

        dthin, db = thin_gradients(readable(dy), thin, readable(lora_b), scaling)
        return dthin.to(dy.dtype), db.to(lora_b.dtype)
    dthin = _scaled(dy @ lora_b, scaling) if thin_needed else thin
    # With the thin matrix on the left: faster than dYᵀ S.
    return dthin, _scaled(thin.t() @ dy, scaling).t() if b_needed else None


def _scaled(x: Tensor, scaling: float) -> Tensor:
    """Multiplies in place; a scaling of 1, the default's, costs nothing."""
    return x if scaling == 1.0 else x.mul_(scaling)


def _input_gradient(way: Way, dy: Tensor, weight: Tensor, dthin: Tensor, lora_a: Tensor) -> Tensor:
    if way.input_gradient != "in place":
        return _sum_of_products(way.input_gradient, dy, weight, None, dthin, lora_a, 1.0, way.mask)
    dx = input_gradient(dy, weight)
    return dx.addmm_(dthin, lora_a) if way.drop is None else dx.add_(way.drop(dthin @ lora_a))
