"""Attention by torch's own kernels, for calls that neither the native core nor Triton computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .triton import readable

# What torch's flash attention takes. Above this head_dim, its backward pass does not run on every GPU.
FLASH_DTYPES = (torch.bfloat16, torch.float16)
FLASH_MAX_HEAD_DIM = 192
FLASH_HEAD_DIM_MULTIPLE = 8
FLASH_CAPABILITY = (8, 0)


def attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, causal: bool, scale: float
) -> Tensor:
    """Computes softmax(scale q kᵀ + mask) v within each text; all rows are queries.

    Flash attention takes bf16 and fp16 on a GPU in one call (torch 2.11 and newer); all else takes a call per text.

    Parameters
    ----------
    q, k, v : tensor, shape [rows, heads, head_dim]
        Of one dtype. Keys and values may have fewer heads, as for :func:`pyllmclf.ops.attention`.
    cu_seqlens : int tensor, shape [texts + 1]
        First row of each text, and the end of the last.
    max_seqlen : int
        Rows of the longest text.
    causal : bool
        Whether a query sees no key after its own position.
    scale : float

    Returns
    -------
    tensor, shape [rows, heads, head_dim]
    """
    varlen_attn = flash_varlen(q) if q.shape == k.shape else None
    if varlen_attn is None:
        return attention_per_text(q, k, v, cu_seqlens, causal=causal, scale=scale)
    offsets = cu_seqlens.to(torch.int32)
    window = (-1, 0) if causal else (-1, -1)  # visible keys on each side of a query; -1: all
    return varlen_attn(
        *map(readable, (q, k, v)), offsets, offsets, max_seqlen, max_seqlen, scale=scale, window_size=window
    )


def attention_per_text(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, *, causal: bool, scale: float) -> Tensor:
    """Computes :func:`attention` by one call per text. On a GPU, the host waits for ``cu_seqlens``."""
    sizes = cu_seqlens.diff().tolist() or [0]
    # Views of each text, [1, heads, rows, head_dim]
    texts = zip(*(t.transpose(0, 1).unsqueeze(0).split(sizes, dim=2) for t in (q, k, v)), strict=True)
    grouped = q.shape[1] != k.shape[1]
    out = [
        F.scaled_dot_product_attention(qi, ki, vi, is_causal=causal, scale=scale, enable_gqa=grouped)
        for qi, ki, vi in texts
    ]
    return torch.cat(out, dim=2).squeeze(0).transpose(0, 1)


def flash_varlen(q: Tensor) -> Callable[..., Any] | None:
    """Returns ``torch.nn.attention.varlen.varlen_attn`` if it can take ``q`` [rows, heads, head_dim], or ``None``."""
    head_dim = q.shape[2]
    fits = head_dim <= FLASH_MAX_HEAD_DIM and head_dim % FLASH_HEAD_DIM_MULTIPLE == 0 and len(q) > 0
    if not (q.is_cuda and q.dtype in FLASH_DTYPES and fits and _has_flash(q.device)):
        return None
    return _varlen_attn()


@cache
def _has_flash(device: torch.device) -> bool:
    available = torch.backends.cuda.is_flash_attention_available()
    return available and torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY


@cache
def _varlen_attn() -> Callable[..., Any] | None:
    """torch's function, unless the installed torch has none (2.9) or one without a scale (2.10)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    has_arguments = {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys()
    return varlen_attn if has_arguments else None
