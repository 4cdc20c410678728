"""Attention of one query per text that computes no keys and values.

A key is a linear function of its row and meets a single query: q · (Wk x + bk) = (Wkᵀ q) · x + q · bk. The last term is
the same for every key of the query and drops out of the softmax. One set of probabilities averages the values:
sum p (Wv x + bv) = Wv (sum p x) + bv sum p. The weights thus multiply one row per text and head instead of every row,
in the backward pass too; the rows enter two thin products only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from .attention import attention
from .dispatch import Choice, choices, implementation
from .functions import apply
from .gradients import gradient_buffer
from .linear import input_gradient, linear, product
from .philox import DropoutKey, attention_mask
from .query_key_value import query_key_value

if TYPE_CHECKING:
    from ..kernels.tiles import PooledSchedule

choices(
    "pooled_attention",
    cpu=Choice("native", "one query per text: no keys and values are computed"),
    cuda=Choice("reference", "keys and values of all rows, and attention's kernel", native="needless"),
)


def avoids_keys(x: Tensor, texts: int, heads: int) -> bool:
    """Whether :func:`pooled_attention` of a batch computes no keys and values, for which it needs full weights.

    Parameters
    ----------
    x : tensor, shape [total, width]
    texts, heads : int
    """
    # In texts with fewer rows than heads, the keys and values are smaller than Wkᵀ q and sum p x.
    return implementation("pooled_attention", x) == "native" and len(x) >= heads * texts


def pooled_attention(
    x: Tensor,
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    cu_seqlens: Tensor,
    max_seqlen: int,
    positions: Tensor,
    *,
    heads: int,
    causal: bool,
    scale: float,
    dropout_p: float = 0.0,
    dropout_key: DropoutKey | None = None,
    schedule: PooledSchedule | None = None,
    operands: torch.dtype | None = None,
) -> Tensor:
    """Computes self-attention of one query row per text, from the rows before their projection.

    Parameters
    ----------
    x : tensor, shape [total, width]
    rows : int64 tensor, shape [texts]
        Index of each text's query row in ``x``.
    weights : one tensor of shape [3 * width, width], or three of shape [width, width]
        Of queries, keys and values.
    biases : as many tensors of shape [3 * width] or [width], or None
    cu_seqlens : int32 tensor, shape [texts + 1]
        First row of each text, and the end of the last.
    max_seqlen : int
        Rows of the longest text.
    positions : int32 tensor, shape [texts]
        Position of each query row in its text.
    heads, causal, scale, dropout_p, dropout_key, schedule
        As for :func:`pyllmclf.ops.attention`.
    operands : torch.dtype, optional
        As for :func:`pyllmclf.ops.linear`, where keys and values are computed.

    Returns
    -------
    tensor, shape [texts, width]
        In the dtype of ``x``.

    Raises
    ------
    UsageError
        If shapes don't fit each other, dropout has no key, or the chosen backend can't compute this.
    """
    width = x.shape[1] if x.dim() == 2 else -1
    outputs = 3 * width // max(1, len(weights))
    if len(weights) not in (1, 3) or any(w.shape != (outputs, width) for w in weights) or width % heads:
        shapes = [tuple(t.shape) for t in (x, *weights)]
        raise UsageError(f"pooled_attention: shapes {shapes} of rows and weights don't fit {heads} heads.")
    if len(biases) != len(weights) or not len(rows) == len(positions) == len(cu_seqlens) - 1:
        raise UsageError("pooled_attention: each weight needs a bias or None, each text one row and one position.")
    if dropout_p > 0.0 and dropout_key is None:
        raise UsageError("pooled_attention: dropout needs a dropout_key.")
    chosen = implementation("pooled_attention", x, *weights, *biases)
    if chosen == "native" and avoids_keys(x, len(rows), heads):
        queries = Queries(rows, cu_seqlens, positions, heads, causal, scale, dropout_p, dropout_key)
        return apply(PooledAttentionFunction, x, queries, len(weights), *weights, *biases)
    if len(weights) == 1:
        q, kv = query_key_value(x, rows, weights[0], biases[0], operands=operands)
        k, v = kv.chunk(2, dim=1)
    else:
        q = linear(x.index_select(0, rows), weights[0], biases[0], operands=operands)
        k, v = (linear(x, weights[i], biases[i], operands=operands) for i in (1, 2))
    q, k, v = (t.unflatten(1, (heads, -1)) for t in (q, k, v))
    out = attention(
        q,
        k,
        v,
        torch.arange(len(cu_seqlens), dtype=torch.int32, device=x.device),
        cu_seqlens,
        1,
        max_seqlen,
        causal=causal,
        query_positions=positions,
        scale=scale,
        dropout_p=dropout_p,
        dropout_key=dropout_key,
        schedule=schedule,
        operands=operands,
    )
    return out.flatten(1)


@dataclass(frozen=True)
class Queries:
    """Which rows are queries, and which keys they see; attributes as the arguments of :func:`pooled_attention`."""

    rows: Tensor
    cu_seqlens: Tensor
    positions: Tensor
    heads: int
    causal: bool
    scale: float
    dropout_p: float
    dropout_key: DropoutKey | None

    def key_ranges(self) -> list[tuple[int, int]]:
        """First row of the keys that each text's query sees, and the row after the last."""
        begins = self.cu_seqlens.tolist()
        if self.causal:
            return [(b, b + at + 1) for b, at in zip(begins[:-1], self.positions.tolist(), strict=True)]
        return list(pairwise(begins))

    def dropout_factors(self, text: int, keys: int) -> Tensor | None:
        """Dropout's factors of a text's probabilities, shape [keys, heads]: 0 or 1 / (1 - p)."""
        if self.dropout_p == 0.0:
            return None
        assert self.dropout_key is not None
        position = self.positions[text : text + 1]
        mask = attention_mask(self.dropout_key, text, position, self.heads, keys, self.dropout_p)
        return mask[:, 0].t() / (1.0 - self.dropout_p)


class PooledAttentionFunction(torch.autograd.Function):
    """Saves x, q, and for each text and head Wkᵀ q, the probabilities p, sum p and sum p x."""

    @staticmethod
    def forward(ctx, x: Tensor, queries: Queries, count: int, *parameters) -> Tensor:
        """``parameters`` are ``count`` weights, then as many biases."""
        heads, texts, width = queries.heads, len(queries.rows), x.shape[1]
        bq, wq, wk, wv, bv = _split_parameters(parameters[:count], parameters[count:])
        q = product(x.index_select(0, queries.rows), wq, bq)
        keyed = torch.bmm(_by_head(q, heads), wk.view(heads, -1, width)).mul_(queries.scale)  # [heads, texts, width]
        means = x.new_empty(heads, texts, width)
        sums = x.new_ones(texts, heads)
        key_ranges = queries.key_ranges()
        probabilities = []
        for i, (begin, end) in enumerate(key_ranges):
            rows = x[begin:end]
            p = (rows @ keyed[:, i].t()).softmax(dim=0)
            probabilities.append(p)
            if (factors := queries.dropout_factors(i, end - begin)) is not None:
                p = p * factors
                sums[i] = p.sum(0)
            means[:, i] = p.t() @ rows
        out = torch.bmm(means, wv.view(heads, -1, width).mT)
        if bv is not None:
            out += bv.view(heads, 1, -1) * sums.t().unsqueeze(2)
        ctx.save_for_backward(x, q, keyed, means, sums, *parameters)
        ctx.queries, ctx.count, ctx.key_ranges, ctx.probabilities = queries, count, key_ranges, probabilities
        ctx.buffers = [gradient_buffer(w) for w in parameters[:count]]
        return out.transpose(0, 1).reshape(texts, width)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor):
        x, q, keyed, means, sums, *parameters = ctx.saved_tensors
        queries, count = ctx.queries, ctx.count
        heads, width = queries.heads, x.shape[1]
        _, wq, wk, wv, bv = _split_parameters(parameters[:count], parameters[count:])
        needs_x, _, _, *needs = ctx.needs_input_grad
        dout_by_head = _by_head(dout, heads)
        dmeans = torch.bmm(dout_by_head, wv.view(heads, -1, width))
        dsums = None if bv is None else (dout_by_head * bv.view(heads, 1, -1)).sum(2).t()
        dkeyed = torch.empty_like(keyed)
        dx = torch.zeros_like(x) if needs_x else None
        for i, (begin, end) in enumerate(ctx.key_ranges):
            rows, p = x[begin:end], ctx.probabilities[i]
            dp = rows @ dmeans[:, i].t()
            dropped = p
            if (factors := queries.dropout_factors(i, end - begin)) is not None:
                dropped = p * factors
                dp = (dp if dsums is None else dp + dsums[i]) * factors
            dscores = p * (dp - (p * dp).sum(0))
            dkeyed[:, i] = dscores.t() @ rows
            if dx is not None:
                torch.mm(dscores, keyed[:, i], out=dx[begin:end]).addmm_(dropped, dmeans[:, i])
        dkeyed.mul_(queries.scale)
        dq = torch.bmm(dkeyed, wk.view(heads, -1, width).mT).transpose(0, 1).reshape(q.shape)
        if dx is not None:
            dx.index_add_(0, queries.rows, input_gradient(dq, wq))
        # The keys' bias has no effect on the result; its gradient is 0.
        dbiases: list[Tensor | None] = [None] * count
        if any(needs[count:]):
            dbv = (dout.unflatten(1, (heads, -1)) * sums.unsqueeze(2)).sum(0).flatten()
            of_qkv = [dq.sum(0), dq.new_zeros(width), dbv]
            dbiases = [*of_qkv] if count == 3 else [torch.cat(of_qkv)]
            dbiases = [d if need else None for d, need in zip(dbiases, needs[count:], strict=True)]
        # The weights' gradients come last: their consumer may change the weights.
        products = [
            [(dq, x.index_select(0, queries.rows))],
            list(zip(_by_head(q, heads), dkeyed, strict=True)),
            list(zip(dout_by_head, means, strict=True)),
        ]
        if count == 1:
            products = [[pair for pairs in products for pair in pairs]]
        dweights: list[Tensor | None] = [None] * count
        for i, pairs in enumerate(products):
            if needs[i] and ctx.buffers[i] is not None:
                ctx.buffers[i].add_matmuls(*pairs)
            elif needs[i]:
                dweights[i] = torch.cat([dy.t() @ inputs for dy, inputs in pairs])
        return dx, None, None, *dweights, *dbiases


def _split_parameters(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor | None]:
    """Returns (bias of the queries, weights of queries, keys and values, bias of the values)."""
    if len(weights) == 3:
        wq, wk, wv = weights
        return biases[0], wq, wk, wv, biases[2]
    wq, wk, wv = weights[0].chunk(3)
    bq, _, bv = (None, None, None) if biases[0] is None else biases[0].chunk(3)
    return bq, wq, wk, wv, bv


def _by_head(x: Tensor, heads: int) -> Tensor:
    """Views [texts, width] as [heads, texts, head_dim]."""
    return x.unflatten(1, (heads, -1)).transpose(0, 1)
