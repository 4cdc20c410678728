"""Self-attention of a block: from its projections, or from its input where one row per text is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from .. import ops
from ..ops.philox import ATTENTION
from ..ops.schedule import PooledSchedule, pooled_schedule
from .context import Context, PooledRows
from .layers import Linear, in_dtype


def self_attention(
    qkv: Tensor | tuple[Tensor, Tensor, Tensor],
    context: Context,
    *,
    heads: int,
    scale: float,
    layer: int,
    window: tuple[int, int] | None = None,
    pooled: PooledRows | None = None,
) -> Tensor:
    """softmax(scale q kᵀ + mask) v, each text within itself (Vaswani et al. 2017, section 3.2).

    Parameters
    ----------
    qkv : tensor, shape [total, 3 width], or (q, k, v), each of shape [total, width]
        A fused projection, or three; keys and values may be narrower, with fewer heads. With ``pooled``, q has the
        pooled rows, shape [texts, width]. Where the context shares rows, all of these have the distinct rows only.
    context : Context
    heads : int
    scale : float
    layer : int
        Number of the block, for dropout masks.
    window : (int, int), optional
        Number of keys to the left and right of its own position that a query sees.
    pooled : PooledRows, optional
        The rows with queries; all rows by default.

    Returns
    -------
    tensor, shape [total, width], or [texts, width] with ``pooled``, or [distinct, width] where the context shares rows
    """
    if (shared := context.shared) is not None:
        # Attention is cheap beside the matmuls: it runs on all rows.
        if isinstance(qkv, Tensor):
            qkv = shared.all(qkv)
        else:
            q, k, v = qkv
            qkv = shared.all(q), shared.all(k), shared.all(v)
        context = replace(context, shared=None)
        return shared.computed(self_attention(qkv, context, heads=heads, scale=scale, layer=layer, window=window))
    batch = context.batch
    if context.attention is not None:
        projections = qkv.chunk(3, dim=1) if isinstance(qkv, Tensor) else qkv
        return context.attention(*_by_head(projections, heads), causal=context.causal, scale=scale, window=window)
    p = context.rates.attention
    key = context.key(layer, ATTENTION) if p > 0.0 else None
    if isinstance(qkv, Tensor):
        return ops.attention_packed(
            qkv,
            batch.cu_seqlens,
            batch.max_seqlen,
            heads=heads,
            causal=context.causal,
            scale=scale,
            window=window,
            dropout_p=p,
            dropout_key=key,
            schedule=batch.schedule,
            operands=context.operands,
        )
    q, k, v = _by_head(qkv, heads)
    queries = batch if pooled is None else pooled.context.batch
    out = ops.attention(
        q,
        k,
        v,
        queries.cu_seqlens,
        batch.cu_seqlens,
        queries.max_seqlen,
        batch.max_seqlen,
        causal=context.causal,
        query_positions=None if pooled is None else queries.positions,
        scale=scale,
        window=window,
        dropout_p=p,
        dropout_key=key,
        schedule=batch.schedule if pooled is None else _pooled_schedule(context),
        operands=context.operands,
    )
    return out.flatten(1)


def _by_head(projections: Sequence[Tensor], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [rows, its heads, head_dim]."""
    head_dim = projections[0].shape[1] // heads
    q, k, v = (projection.unflatten(1, (-1, head_dim)) for projection in projections)
    return q, k, v


def pooled_self_attention(
    x: Tensor,
    layers: Sequence[Linear],
    context: Context,
    pooled: PooledRows,
    *,
    heads: int,
    scale: float,
    layer: int,
) -> Tensor:
    """Attention of the pooled rows on all rows of their texts, without a window.

    Computes no keys and values where that is cheaper; see :func:`pyllmclf.ops.pooled_attention`.

    Parameters
    ----------
    x : tensor, shape [total, width]
    layers : sequence of Linear
        The projections of x to queries, keys and values: one fused layer, or three.
    context : Context
        Context of all rows.
    pooled : PooledRows
    heads, scale, layer
        As for :func:`self_attention`.

    Returns
    -------
    tensor, shape [texts, width]
    """
    has_lora = any(linear.lora_a is not None for linear in layers)
    if has_lora and (context.rates.lora > 0.0 or not ops.avoids_keys(x, len(pooled.index), heads)):
        # With dropout before A, no single matrix gives the keys or values. Where keys and values are computed anyway,
        # adding to them costs less than adding to the weights.
        if len(layers) == 1:
            q, kv = layers[0].query_key_value(x, context, pooled)
            k, v = kv.chunk(2, dim=1)
        else:
            query, key, value = layers
            q, k, v = query(pooled(x), pooled.context), key(x, context), value(x, context)
        return self_attention((q, k, v), context, heads=heads, scale=scale, layer=layer, pooled=pooled)
    batch = context.batch
    p = context.rates.attention
    return ops.pooled_attention(
        x,
        pooled.index,
        [linear.merged_weight(x.dtype) for linear in layers],
        [in_dtype(linear.bias, x.dtype) for linear in layers],
        batch.cu_seqlens,
        batch.max_seqlen,
        pooled.context.batch.positions,
        heads=heads,
        causal=context.causal,
        scale=scale,
        dropout_p=p,
        dropout_key=context.key(layer, ATTENTION) if p > 0.0 else None,
        schedule=_pooled_schedule(context),
        operands=context.operands,
    )


def _pooled_schedule(context: Context) -> PooledSchedule | None:
    return pooled_schedule(context.batch.schedule, causal=context.causal)
