"""Attention with terms of each distance in the native core (``csrc/cpu/relative_attention.cpp``), on fp32 tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import _C
from .native_cpu import AttentionShape
from .triton import readable

_NONE = (0, 0, 0)


class RelativeAttentionFunction(torch.autograd.Function):
    """Saves q, k, v, the terms, the output and the log-sum-exp of each row of scores."""

    @staticmethod
    def forward(
        ctx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        position_keys: Tensor | None,
        position_queries: Tensor | None,
        shape: AttentionShape,
        buckets: Tensor,
    ) -> Tensor:
        q, k, v = readable(q), readable(k), readable(v)
        bias = None if bias is None else bias.contiguous()
        tables = [None if table is None else readable(table) for table in (position_keys, position_queries)]
        out, log_sum_exp = q.new_empty(q.shape), q.new_empty(q.shape[1], len(q))
        rows = map(_heads, (q, k, v, out))
        _C.relative_attention_forward(shape.arguments, _terms(buckets, bias, tables), *rows, log_sum_exp.data_ptr())
        ctx.save_for_backward(q, k, v, bias, *tables, out, log_sum_exp, buckets)
        ctx.shape = shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor):
        q, k, v, bias, *tables, out, log_sum_exp, buckets = ctx.saved_tensors
        wanted = [
            torch.empty_like(term, memory_format=torch.contiguous_format) if needed and term is not None else None
            for term, needed in zip(
                (q, k, v, bias, *tables), (True, True, True, *ctx.needs_input_grad[3:6]), strict=True
            )
        ]
        dbias, dout = wanted[3], readable(dout)  # named: its memory is read until the call returns
        _C.relative_attention_backward(
            ctx.shape.arguments,
            _terms(buckets, bias, tables),
            *map(_heads, (q, k, v, out, dout)),
            log_sum_exp.data_ptr(),
            (*map(_heads, wanted[:3]), 0 if dbias is None else dbias.data_ptr(), *map(_heads, wanted[4:])),
        )
        return *wanted, None, None


def _heads(x: Tensor | None) -> tuple[int, int, int]:
    return _NONE if x is None else (x.data_ptr(), x.stride(0), x.stride(1))


def _terms(buckets: Tensor, bias: Tensor | None, tables: Sequence[Tensor | None]) -> tuple[object, ...]:
    """The arguments that the core reads as its PositionTerms."""
    counts = [len(table) for table in tables if table is not None] + ([] if bias is None else [bias.shape[1]])
    count = counts[0] if counts else int(buckets.max()) + 1
    return (buckets.data_ptr(), len(buckets), count, 0 if bias is None else bias.data_ptr(), *map(_heads, tables))
