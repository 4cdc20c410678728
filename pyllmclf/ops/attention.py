"""Attention over packed texts, with a switchable causal mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from . import reference
from .dispatch import implementation
from .dropout import DropoutKey


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    causal: bool,
    query_positions: Tensor | None = None,
    scale: float | None = None,
    window: tuple[int, int] | None = None,
    dropout_p: float = 0.0,
    dropout_key: DropoutKey | None = None,
) -> Tensor:
    """softmax(scale q kᵀ + mask) v, each text within itself.

    Parameters
    ----------
    q : tensor, shape [rows_q, heads, head_dim]
    k, v : tensor, shape [rows_k, heads, head_dim]
    cu_seqlens_q, cu_seqlens_k : int32 tensor, shape [texts + 1]
        Where each text begins in ``q``, and in ``k`` and ``v``.
    max_seqlen_q, max_seqlen_k : int
        Longest text in rows.
    causal : bool
        Whether a query sees no key behind its own position.
    query_positions : int tensor, shape [rows_q], optional
        Position of each query in its text. Without it, queries are all rows of their text in order.
    scale : float, optional
        Default 1 / sqrt(head_dim).
    window : (int, int), optional
        How many keys to the left and to the right of its own position a query sees.
    dropout_p : float
        Share of the probabilities that is dropped.
    dropout_key : DropoutKey, optional
        Needed where ``dropout_p`` is not 0.

    Returns
    -------
    tensor, shape [rows_q, heads, head_dim]

    Raises
    ------
    UsageError
        If shapes don't fit each other, or dropout is asked for without a key.
    """
    if q.dim() != 3 or k.shape != v.shape or q.shape[1:] != k.shape[1:]:
        raise UsageError(f"attention: shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)} don't fit.")
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise UsageError("attention: cu_seqlens_q and cu_seqlens_k count different numbers of texts.")
    # The same object in the usual case: comparing the contents would wait for a GPU.
    same_rows = cu_seqlens_q is cu_seqlens_k or torch.equal(cu_seqlens_q, cu_seqlens_k)
    if query_positions is None and not (same_rows and q.shape[0] == k.shape[0] and max_seqlen_q == max_seqlen_k):
        raise UsageError("attention: where queries are a subset of the rows, query_positions must be given.")
    if dropout_p > 0.0 and dropout_key is None:
        raise UsageError("attention: dropout needs a dropout_key.")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    plain = query_positions is None and window is None and dropout_p == 0.0
    if plain and implementation("attention") == "torch":
        return _attention_torch(q, k, v, cu_seqlens_q, causal, scale)
    with torch.autocast(q.device.type, enabled=False):  # the reference computes half precision in fp32
        return reference.attention(
            q,
            k,
            v,
            cu_seqlens_q,
            cu_seqlens_k,
            causal=causal,
            query_positions=query_positions,
            scale=scale,
            window=window,
            dropout_p=dropout_p,
            dropout_key=dropout_key,
        )


def _attention_torch(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, causal: bool, scale: float) -> Tensor:
    sizes = cu_seqlens.diff().tolist() or [0]
    # [1, heads, rows, head_dim] views of each text
    texts = zip(*(t.transpose(0, 1).unsqueeze(0).split(sizes, dim=2) for t in (q, k, v)), strict=True)
    out = [F.scaled_dot_product_attention(qi, ki, vi, is_causal=causal, scale=scale) for qi, ki, vi in texts]
    return torch.cat(out, dim=2).squeeze(0).transpose(0, 1)
