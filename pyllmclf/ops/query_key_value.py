"""Fused projection to keys and values of all rows and queries of some, as the last block needs them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from .dispatch import implementation
from .functions import apply
from .gradients import gradient_buffer, transposed_product
from .linear import check_shapes, input_gradient, linear, product, rounded


def query_key_value(
    x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None = None, *, operands: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Computes queries of some rows, x[rows] Wqᵀ + bq, and keys and values of all, x [Wk; Wv]ᵀ + [bk; bv].

    Parameters
    ----------
    x : tensor, shape [total, in]
    rows : int64 tensor, shape [queries]
        Distinct.
    weight : tensor, shape [3 * width, in]
        Rows of Wq, then of Wk, then of Wv.
    bias : tensor, shape [3 * width], optional
    operands : torch.dtype, optional
        As for :func:`linear`.

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
        return apply(QueryKeyValueFunction, x, rows, weight, bias, operands)
    width = len(weight) // 3
    bias_q, bias_kv = (None, None) if bias is None else (bias[:width], bias[width:])
    q = linear(x.index_select(0, rows), weight[:width], bias_q, operands=operands)
    return q, linear(x, weight[width:], bias_kv, operands=operands)


class QueryKeyValueFunction(torch.autograd.Function):
    """Saves x and its rows with queries. The weight's gradient is one matrix, in its buffer if it has one."""

    @staticmethod
    def forward(
        ctx, x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, operands: torch.dtype | None
    ) -> tuple[Tensor, Tensor]:
        queries, x = rounded(x.index_select(0, rows), operands), rounded(x, operands)
        saved = (queries, x) if ctx.needs_input_grad[2] else (None, None)
        ctx.save_for_backward(*saved, rows, weight)
        ctx.buffer, ctx.operands = gradient_buffer(weight), operands
        width = len(weight) // 3
        bias_q, bias_kv = (None, None) if bias is None else (bias[:width], bias[width:])
        return product(queries, weight[:width], bias_q), product(x, weight[width:], bias_kv)

    @staticmethod
    @once_differentiable
    def backward(ctx, dq: Tensor, dkv: Tensor):
        queries, x, rows, weight = ctx.saved_tensors
        needs_x, _, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dbias = torch.cat([dq.sum(0), dkv.sum(0)]) if needs_bias else None
        dq, dkv = rounded(dq, ctx.operands), rounded(dkv, ctx.operands)
        width = len(weight) // 3
        dx = dweight = None
        if needs_x:
            dx = input_gradient(dkv, weight[width:]).index_add_(0, rows, input_gradient(dq, weight[:width]))
        if needs_weight:  # last: the consumer may change the weight
            products = (dq, queries), (dkv, x)
            if ctx.buffer is not None:
                ctx.buffer.add_matmuls(*products)
            else:
                dweight = torch.cat([transposed_product(*pair) for pair in products])
        return dx, None, dweight, dbias, None
