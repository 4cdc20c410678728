"""Relative attention by torch's ops on padded texts, without waiting for a GPU.

A group of texts is computed together. Nothing of the size of the scores is kept for the backward pass, which computes
them again.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..philox import DropoutKey, padded_attention_mask

# Buckets of the distances, bias, position_keys and position_queries, as for pyllmclf.ops.relative_attention.
Terms: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
# Scores of a group of texts: 64 MB in fp32.
MOST_SCORES = 1 << 24


@dataclass(frozen=True)
class PaddedTexts:
    """Some texts of a call.

    Attributes
    ----------
    rows_q, rows_k : int64 tensor, shapes [texts, longest]
        Rows of each text; behind its end stand rows of other texts.
    positions : int64 tensor, shape [texts, longest]
        Row in its text of each query.
    counts_k : int64 tensor, shape [texts]
        Number of rows of each text.
    causal, scale
        As for :func:`pyllmclf.ops.relative_attention`.
    dropout : (DropoutKey, tensor, float), optional
        Key, example ids of these texts, rate.
    """

    rows_q: Tensor
    rows_k: Tensor
    positions: Tensor
    counts_k: Tensor
    _: KW_ONLY
    causal: bool
    scale: float
    dropout: tuple[DropoutKey, Tensor, float] | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *terms: Tensor | None) -> Tensor:
        """Attention of these texts, shape [texts, longest, heads, head_dim]; behind a text's end it is undefined."""
        # [texts, heads, longest, head_dim]
        qs, ks, vs = (x[rows].transpose(1, 2) for x, rows in ((q, self.rows_q), (k, self.rows_k), (v, self.rows_k)))
        keys = torch.arange(ks.shape[2], device=q.device)
        distance = keys - self.positions[:, :, None]
        scores = relative_scores(qs, ks, distance, terms, self.scale)
        scores = scores + self.scale * (qs @ ks.transpose(2, 3)).to(scores.dtype)
        hidden = keys >= self.counts_k[:, None, None]
        if self.causal:
            hidden = hidden | (distance > 0)
        # A finite number: a row that sees no key, which is not read, has no NaN for a gradient to be multiplied with.
        scores = scores.masked_fill(hidden[:, None], torch.finfo(scores.dtype).min)
        probabilities = scores.softmax(dim=-1)
        if self.dropout is not None:
            key, examples, p = self.dropout
            keep = padded_attention_mask(key, examples, self.positions, ks.shape[1], ks.shape[2], p)
            probabilities = probabilities * keep / (1.0 - p)
        return (probabilities.to(vs.dtype) @ vs).transpose(1, 2)


def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlens: tuple[int, int],
    terms: Terms,
    *,
    causal: bool,
    query_positions: Tensor | None,
    scale: float,
    dropout_p: float,
    dropout_key: DropoutKey | None,
) -> Tensor:
    """See :func:`pyllmclf.ops.relative_attention`; ``max_seqlens`` are those of queries and keys."""
    texts, (most_q, most_k) = len(cu_seqlens_q) - 1, max_seqlens
    if not len(q) or not len(k):
        return q + 0 * (k.sum() + v.sum())
    device = q.device
    text = torch.arange(texts, device=device).repeat_interleave(cu_seqlens_q.diff().long(), output_size=len(q))
    row_in_text = torch.arange(len(q), device=device) - cu_seqlens_q.long()[text]
    rows_q = (cu_seqlens_q[:-1, None].long() + torch.arange(most_q, device=device)).clamp(max=len(q) - 1)
    rows_k = (cu_seqlens_k[:-1, None].long() + torch.arange(most_k, device=device)).clamp(max=len(k) - 1)
    positions = (row_in_text if query_positions is None else query_positions.long())[rows_q]
    counts_k = cu_seqlens_k.diff().long()
    together = max(1, MOST_SCORES // (q.shape[1] * most_q * most_k))
    parts = []
    for first in range(0, texts, together):
        some = slice(first, first + together)
        drops = dropout_key is not None and dropout_p > 0.0
        padded = PaddedTexts(
            rows_q[some],
            rows_k[some],
            positions[some],
            counts_k[some],
            causal=causal,
            scale=scale,
            dropout=(dropout_key, dropout_key.example_ids[some], dropout_p) if dropout_key and drops else None,
        )
        parts.append(checkpoint(padded, q, k, v, *terms, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(parts)[text, row_in_text]


def relative_scores(q: Tensor, k: Tensor, distance: Tensor, terms: tuple[Tensor | None, ...], scale: float) -> Tensor:
    """The terms of the scores that depend on the distance.

    Parameters
    ----------
    q, k : tensor, shapes [texts, heads, queries, head_dim] and [texts, heads, keys, head_dim]
    distance : int64 tensor, shape [texts or 1, queries, keys]
        Row of the key less that of the query.
    terms : tuple
        Buckets of the distances, bias, position_keys and position_queries.
    scale : float

    Returns
    -------
    tensor, shape [texts, heads, queries, keys]
        At least in fp32.
    """
    buckets, bias, position_keys, position_queries = terms
    assert buckets is not None
    index = buckets.long()[distance + len(buckets) // 2]  # [texts or 1, queries, keys]
    shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = torch.zeros(1, dtype=wide, device=q.device)
    if bias is not None:
        scores = scores + bias.to(wide).t()[index].permute(0, 3, 1, 2)
    if position_keys is not None:
        table = q @ position_keys.permute(1, 2, 0)  # [texts, heads, queries, n_buckets]
        scores = scores + scale * table.gather(3, index[:, None].expand(shape)).to(wide)
    if position_queries is not None:
        table = k @ position_queries.permute(1, 2, 0)  # [texts, heads, keys, n_buckets]
        turned = index.transpose(1, 2)[:, None].expand(shape[0], shape[1], shape[3], shape[2])
        scores = scores + scale * table.gather(3, turned).to(wide).transpose(2, 3)
    return scores
