"""A frozen linear layer with a trained low-rank addition."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from . import native, reference
from .dispatch import implementation
from .dropout import DropoutKey
from .linear import check_shapes, input_gradient, product


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
) -> Tensor:
    """x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ (Hu et al. 2021, equation 3).

    Parameters
    ----------
    x : tensor, shape [rows, in]
    weight : tensor, shape [out, in]
    bias : tensor, shape [out], optional
    lora_a : tensor, shape [rank, in]
    lora_b : tensor, shape [out, rank]
    scaling : float
    dropout_p : float
        Dropout of the input of the low-rank part only.
    dropout_key : DropoutKey, optional
        Needed where ``dropout_p`` is not 0.

    Returns
    -------
    tensor, shape [rows, out]

    Raises
    ------
    UsageError
        If shapes don't fit each other, dropout is asked for without a key, or the chosen backend can't compute this.
    """
    check_shapes("lora_linear", x, weight, bias)
    if (*lora_b.shape, *lora_a.shape) != (weight.shape[0], lora_a.shape[0], lora_a.shape[0], weight.shape[1]):
        shapes = f"{tuple(lora_a.shape)} and {tuple(lora_b.shape)}"
        raise UsageError(f"lora_linear: A and B of shapes {shapes} don't fit a weight of shape {tuple(weight.shape)}.")
    if dropout_p > 0.0 and dropout_key is None:
        raise UsageError("lora_linear: dropout needs a dropout_key.")
    if implementation("lora_linear", x, weight, bias, lora_a, lora_b) == "native":
        return LoRALinearFunction.apply(x, weight, bias, lora_a, lora_b, scaling, dropout_p, dropout_key)
    return reference.lora_linear(
        x, weight, bias, lora_a, lora_b, scaling=scaling, dropout_p=dropout_p, dropout_key=dropout_key
    )


class LoRALinearFunction(torch.autograd.Function):
    """Saves x and the thin product S = drop(x) Aᵀ.

    Forward y = x Wᵀ + b, then y += s S Bᵀ in place. Backward dS = s dY B, dX = dY W, then dX += drop(dS A) in place;
    dA = dSᵀ drop(x) with the mask computed again, dB = s dYᵀ S.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, lora_a, lora_b, scaling: float, dropout_p: float, key: DropoutKey | None):
        thin = (native.dropout_rows(x, dropout_p, key) if key is not None and dropout_p > 0.0 else x) @ lora_a.t()
        ctx.save_for_backward(x, weight, lora_a, lora_b, thin)
        ctx.scaling, ctx.dropout_p, ctx.key = scaling, dropout_p, key if dropout_p > 0.0 else None
        return product(x, weight, bias).addmm_(thin, lora_b.t(), alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, weight, lora_a, lora_b, thin = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_a, needs_b, *_ = ctx.needs_input_grad
        dx = dweight = dbias = da = db = None
        if needs_x or needs_a:
            dthin = (dy @ lora_b).mul_(ctx.scaling)
        if needs_x:
            dx = input_gradient(dy, weight)
            if ctx.key is None:
                dx.addmm_(dthin, lora_a)
            else:
                dx.add_(native.dropout_rows(dthin @ lora_a, ctx.dropout_p, ctx.key))
        if needs_a:
            read = x if ctx.key is None else native.dropout_rows(x, ctx.dropout_p, ctx.key)
            da = dthin.t() @ read
        if needs_b:
            db = (thin.t() @ dy).mul_(ctx.scaling).t()  # the thin matrix on the left: faster than dYᵀ S
        if needs_weight:
            dweight = dy.t() @ x
        if needs_bias:
            dbias = dy.sum(0)
        return dx, dweight, dbias, da, db, None, None, None
