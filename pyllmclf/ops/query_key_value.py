"""Fused projection to keys and values of all rows and queries of some, as the last block needs them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from .backends import reference
from .dispatch import implementation
from .gradients import gradient_buffer
from .linear import check_shapes, input_gradient, product


def query_key_value(x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Computes queries of some rows, x[rows] Wqᵀ + bq, and keys and values of all, x [Wk; Wv]ᵀ + [bk; bv].

    Parameters
    ----------
    x : tensor, shape [total, in]
    rows : int64 tensor, shape [queries]
        Distinct.
    weight : tensor, shape [3 * width, in]
        Rows of Wq, then of Wk, then of Wv.
    bias : tensor, shape [3 * width], optional

    Returns
    -------
    q : tensor, shape [queries, width]
    kv : tensor, shape [total, 2 * width]
        Keys, then values. Both results have the dtype of ``x``, or that of autocast.

    Raises
    ------
    UsageError
        If shapes don't fit each other, or the chosen backend can't compute this.
    """
    check_shapes("query_key_value", x, weight, bias)
    if len(weight) % 3:
        raise UsageError(f"query_key_value: {len(weight)} outputs are not three equal parts.")
    if implementation("linear", x, weight, bias) == "native":
        return QueryKeyValueFunction.apply(x, rows, weight, bias)
    return reference.query_key_value(x, rows, weight, bias)


class QueryKeyValueFunction(torch.autograd.Function):
    """Saves x. The weight's gradient is one matrix, in its buffer if it has one."""

    @staticmethod
    def forward(ctx, x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x if ctx.needs_input_grad[2] else None, rows, weight)
        ctx.buffer = gradient_buffer(weight)
        width = len(weight) // 3
        bias_q, bias_kv = (None, None) if bias is None else (bias[:width], bias[width:])
        return product(x.index_select(0, rows), weight[:width], bias_q), product(x, weight[width:], bias_kv)

    @staticmethod
    @once_differentiable
    def backward(ctx, dq: Tensor, dkv: Tensor):
        x, rows, weight = ctx.saved_tensors
        needs_x, _, needs_weight, needs_bias = ctx.needs_input_grad
        width = len(weight) // 3
        dx = dweight = None
        if needs_x:
            dx = input_gradient(dkv, weight[width:]).index_add_(0, rows, input_gradient(dq, weight[:width]))
        dbias = torch.cat([dq.sum(0), dkv.sum(0)]) if needs_bias else None
        if needs_weight:  # last: the consumer may change the weight
            products = (dq, x.index_select(0, rows)), (dkv, x)
            if ctx.buffer is not None:
                ctx.buffer.add_matmuls(*products)
            else:
                dweight = torch.cat([dy.t() @ inputs for dy, inputs in products])
        return dx, None, dweight, dbias
