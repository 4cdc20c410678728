"""Attention over packed texts whose scores also depend on the distance of query and key."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .attention import check_key
from .backends import native_cpu, reference, torch_relative_attention
from .backends.native_relative_attention import RelativeAttentionFunction
from .dispatch import Choice, choices, implementation
from .functions import apply
from .philox import DropoutKey

choices(
    "relative_attention",
    cpu=Choice(
        "native", "no padding, and no table in memory that the backward pass could compute again", other="torch"
    ),
    cuda=Choice("torch", "padded texts, whose scores are computed again for the backward pass", native="needless"),
)


def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    buckets: Tensor,
    bias: Tensor | None = None,
    position_keys: Tensor | None = None,
    position_queries: Tensor | None = None,
    causal: bool = False,
    query_positions: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    dropout_key: DropoutKey | None = None,
) -> Tensor:
    """Computes softmax(S + mask) v within each text, where S has terms of the bucket of each distance.

    With b the bucket of the distance j - i,

        S[i, j] = scale (q[i] · k[j] + q[i] · position_keys[b] + k[j] · position_queries[b]) + bias[b]

    ``bias`` alone is MPNet's and T5's attention (Raffel et al. 2020, section 2.1); the other two terms are DeBERTa's
    (He et al. 2021, section 3.1). Gradients reach all tensors but ``buckets``.

    Parameters
    ----------
    q : tensor, shape [rows_q, heads, head_dim]
    k, v : tensor, shape [rows_k, heads, head_dim]
    cu_seqlens_q, cu_seqlens_k : int32 tensor, shape [texts + 1]
        First row of each text in ``q``, and in ``k`` and ``v``; then the number of rows.
    max_seqlen_q, max_seqlen_k : int
        Rows of the longest text.
    buckets : int32 tensor, shape [2 most - 1]
        Bucket of each distance from ``1 - most`` to ``most - 1``, where ``most`` is at least ``max_seqlen_k``.
    bias : tensor, shape [heads, n_buckets], optional
    position_keys, position_queries : tensor, shape [n_buckets, heads, head_dim], optional
    causal : bool
        Whether a query sees no key after its own row.
    query_positions : int tensor, shape [rows_q], optional
        Row of each query in its text. By default the queries are all rows of their text, in order.
    scale : float, optional
        Default 1 / sqrt(head_dim).
    dropout_p : float
        Probability of dropping an attention probability.
    dropout_key : DropoutKey, optional
        Required if ``dropout_p`` is not 0.

    Returns
    -------
    tensor, shape [rows_q, heads, head_dim]
        In the dtype of ``q``.

    Raises
    ------
    UsageError
        If shapes don't fit each other, a text is longer than ``buckets`` allows, dropout has no key, or the chosen
        backend can't compute this.
    ValueError
        If ``cu_seqlens``, rows or buckets don't describe texts; on a CPU.
    """
    _check_rows(q, k, v, cu_seqlens_q, cu_seqlens_k, query_positions)
    _check_terms(q, max_seqlen_k, buckets, bias, position_keys, position_queries)
    check_key(cu_seqlens_q, q, dropout_p, dropout_key, "relative_attention")
    others = (k, v, cu_seqlens_k, buckets, bias, position_keys, position_queries, query_positions)
    if any(t is not None and t.device != q.device for t in others):
        raise UsageError("relative_attention: all tensors must be on one device.")
    chosen = implementation("relative_attention", q, k, v, bias, position_keys, position_queries, unless=_obstacle(q))
    terms = buckets, bias, position_keys, position_queries
    options: dict[str, Any] = {
        "causal": causal,
        "query_positions": query_positions,
        "scale": q.shape[-1] ** -0.5 if scale is None else scale,
        "dropout_p": dropout_p,
        "dropout_key": dropout_key,
    }
    if chosen == "native":
        sizes: dict[str, Any] = {
            "rows_q": len(q),
            "rows_k": len(k),
            "heads": q.shape[1],
            "kv_heads": q.shape[1],
            "head_dim": q.shape[2],
        }
        shape = native_cpu.AttentionShape(cu_seqlens_q, cu_seqlens_k, **sizes, **options)
        distances = buckets.to(torch.int32).contiguous()
        return apply(RelativeAttentionFunction, q, k, v, bias, position_keys, position_queries, shape, distances)
    with torch.autocast(q.device.type, enabled=False):
        if chosen == "torch":
            lengths = max_seqlen_q, max_seqlen_k
            return torch_relative_attention.relative_attention(
                q, k, v, cu_seqlens_q, cu_seqlens_k, lengths, terms, **options
            )
        return reference.relative_attention(q, k, v, cu_seqlens_q, cu_seqlens_k, terms, **options)


def _obstacle(q: Tensor) -> dict[str, str | None] | None:
    """Why the native core can't compute this, by backend; ``None`` if it can."""
    too_wide = q.shape[2] > native_cpu.MAX_HEAD_DIM
    obstacle = f"a head_dim of {q.shape[2]}, above {native_cpu.MAX_HEAD_DIM}"
    return {"native": obstacle, "triton": None} if too_wide else None


def _check_rows(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, query_positions: Tensor | None
) -> None:
    if q.dim() != 3 or k.shape != v.shape or q.shape[1:] != k.shape[1:]:
        raise UsageError(f"relative_attention: shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)} don't fit.")
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise UsageError("relative_attention: cu_seqlens_q and cu_seqlens_k count different numbers of texts.")
    if query_positions is None and len(q) != len(k):
        raise UsageError("relative_attention: queries that are a subset of the rows need query_positions.")
    if query_positions is not None and query_positions.shape != q.shape[:1]:
        raise UsageError(f"relative_attention: {len(query_positions)} query_positions for {len(q)} queries.")


def _check_terms(
    q: Tensor,
    max_seqlen_k: int,
    buckets: Tensor,
    bias: Tensor | None,
    position_keys: Tensor | None,
    position_queries: Tensor | None,
) -> None:
    if buckets.dim() != 1 or len(buckets) < 2 * max_seqlen_k - 1 or not len(buckets) % 2:
        raise UsageError(
            f"relative_attention: buckets of {tuple(buckets.shape)} distances don't hold those of {max_seqlen_k} rows."
        )
    tables = [table for table in (position_keys, position_queries) if table is not None]
    fit = [table.dim() == 3 and table.shape[1:] == q.shape[1:] for table in tables]
    counts = {len(table) for table in tables}
    if bias is not None:
        fit.append(bias.dim() == 2 and len(bias) == q.shape[1])
        counts.add(bias.shape[-1])
    if not all(fit) or len(counts) > 1:
        raise UsageError("relative_attention: bias, position_keys and position_queries don't fit heads and buckets.")
