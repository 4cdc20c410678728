"""Self-attention of a block whose scores depend on the distance of query and key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import ops
from ..ops.philox import ATTENTION
from .context import Context, PooledRows


class Distances(nn.Module):
    """Buckets of the distances between two rows of a text.

    Parameters
    ----------
    most : int
        Maximum number of rows of a text.
    bucket_of : callable
        Takes the distances, row of the key less that of the query, int64; returns the bucket of each, int64.

    Attributes
    ----------
    buckets : int32 buffer, shape [2 most - 1]
        Of the distances from ``1 - most`` to ``most - 1``.
    """

    buckets: Tensor

    def __init__(self, most: int, bucket_of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        buckets = bucket_of(torch.arange(1 - most, most, device="cpu"))
        self.register_buffer("buckets", buckets.to(torch.int32), persistent=False)
        # Lowest and highest bucket of the texts of up to `rows` rows, at rows - 1: known to the host, which otherwise
        # had to wait for a GPU.
        before, behind = buckets[:most].flip(0).numpy(), buckets[most - 1 :].numpy()
        self._lowest = np.minimum.accumulate(np.minimum(before, behind))
        self._highest = np.maximum.accumulate(np.maximum(before, behind))

    def used(self, rows: int) -> range:
        """The buckets of texts of up to this number of rows, and those between them; no text has more than ``most``."""
        rows = min(rows, len(self._lowest))
        return range(int(self._lowest[rows - 1]), int(self._highest[rows - 1]) + 1)


@dataclass(frozen=True)
class PositionTerms:
    """Terms of the scores by the bucket of the distance; see :func:`pyllmclf.ops.relative_attention`.

    Attributes
    ----------
    buckets : int tensor, shape [2 most - 1]
    bias : tensor, shape [heads, n_buckets], or None
    keys, queries : tensor, shape [n_buckets, width], or None
    """

    buckets: Tensor
    bias: Tensor | None = None
    keys: Tensor | None = None
    queries: Tensor | None = None

    def by_head(self, heads: int) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Buckets, bias, and keys and queries of shape [n_buckets, heads, head_dim]."""
        keys, queries = (None if t is None else t.unflatten(1, (heads, -1)) for t in (self.keys, self.queries))
        return self.buckets, self.bias, keys, queries


def table_context(context: Context, rows: range) -> Context:
    """The context of rows of a table that belongs to no text, at their positions in the table.

    Their dropout masks do not depend on the batch.
    """
    batch, count = context.batch, len(rows)
    device = batch.positions.device
    table = replace(
        batch,
        input_ids=batch.input_ids[:0],
        positions=torch.arange(rows.start, rows.stop, dtype=torch.int32, device=device),
        cu_seqlens=torch.tensor([0, count], dtype=torch.int32, device=device),
        max_seqlen=count,
        labels=None,
        # No text has this number.
        example_ids=torch.full((1,), -1, device=device),
        lengths=torch.full((1,), count, dtype=torch.int32, device=device),
        schedule=None,
        shared=None,
    )
    return replace(context, batch=table, shared=None)


def relative_self_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    terms: PositionTerms,
    context: Context,
    *,
    heads: int,
    scale: float,
    layer: int,
    pooled: PooledRows | None = None,
) -> Tensor:
    """softmax(S + mask) v, each text within itself, with S of :func:`pyllmclf.ops.relative_attention`.

    Parameters
    ----------
    q, k, v : tensor, shape [total, width]
        With ``pooled``, q has the pooled rows, shape [texts, width]. Where the context shares rows, all of these have
        the distinct rows only.
    terms : PositionTerms
    context : Context
    heads : int
    scale : float
    layer : int
        Number of the block, for dropout masks.
    pooled : PooledRows, optional
        The rows with queries; all rows by default.

    Returns
    -------
    tensor, shape [total, width], or [texts, width] with ``pooled``, or [distinct, width] where the context shares rows
    """
    if (shared := context.shared) is not None:
        q, k, v = shared.all(q), shared.all(k), shared.all(v)
        context = replace(context, shared=None)
        options: dict[str, Any] = {"heads": heads, "scale": scale, "layer": layer}
        return shared.computed(relative_self_attention(q, k, v, terms, context, **options))
    batch = context.batch
    q, k, v = (projection.unflatten(1, (heads, -1)) for projection in (q, k, v))
    buckets, bias, position_keys, position_queries = terms.by_head(heads)
    if context.attention is not None:
        relative = buckets, bias, position_keys, position_queries
        return context.attention(q, k, v, causal=context.causal, scale=scale, window=None, relative=relative)
    p = context.rates.attention
    queries = batch if pooled is None else pooled.context.batch
    most = len(buckets) // 2 + 1  # a batch of fixed shape rounds its longest text up
    # Rows in the text, which are not the positions where a token has none.
    rows = None if pooled is None else pooled.index.to(torch.int32) - batch.cu_seqlens[:-1]
    out = ops.relative_attention(
        q,
        k,
        v,
        queries.cu_seqlens,
        batch.cu_seqlens,
        min(queries.max_seqlen, most),
        min(batch.max_seqlen, most),
        buckets=buckets,
        bias=bias,
        position_keys=position_keys,
        position_queries=position_queries,
        causal=context.causal,
        query_positions=rows,
        scale=scale,
        dropout_p=p,
        dropout_key=context.key(layer, ATTENTION) if p > 0.0 else None,
    )
    return out.flatten(1)
