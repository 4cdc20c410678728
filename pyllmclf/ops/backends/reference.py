"""Every op in plain torch: the oracle of the tests and the fallback of every backend.

With half-precision inputs, attention, norms, GELU, mean pooling and cross-entropy compute in fp32 and round the result
once; linear layers, sums of embeddings and dropout compute in the dtype of their inputs. Shapes are those of the public
ops in :mod:`pyllmclf.ops`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UsageError
from ..philox import DropoutKey, attention_mask, row_mask

# torch's names of the formulas of GELU.
GELUS = {"gelu_tanh": "tanh", "gelu": "none"}


def _wide(x: Tensor) -> Tensor:
    """Converts half precision to fp32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _Rounded(torch.autograd.Function):
    """Rounds a tensor to a dtype and back in the forward pass, the backward pass, or both."""

    @staticmethod
    def forward(ctx, x: Tensor, forward: torch.dtype | None, backward: torch.dtype | None) -> Tensor:
        ctx.backward_dtype = backward
        return x.clone() if forward is None else x.to(forward).to(x.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor):
        return dy if ctx.backward_dtype is None else dy.to(ctx.backward_dtype).to(dy.dtype), None, None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    causal: bool,
    query_positions: Tensor | None,
    scale: float,
    window: tuple[int, int] | None,
    dropout_p: float,
    dropout_key: DropoutKey | None,
    operands: torch.dtype | None = None,
) -> Tensor:
    """Computes softmax(scale q kᵀ + mask) v, text by text; see :func:`pyllmclf.ops.attention`."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        """a b, of both rounded to ``operands``, and gradients of the product's gradient rounded to it."""
        if operands is None:
            return a @ b
        return _Rounded.apply(_Rounded.apply(a, operands, None) @ _Rounded.apply(b, operands, None), None, operands)

    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for starts, rows in ((starts_q, q), (starts_k, k)):
        if starts[:1] != [0] or starts != sorted(starts) or starts[-1] != len(rows):
            raise UsageError("attention: cu_seqlens must rise from 0 to the number of rows.")
    if len(starts_q) == 1:  # no text: an empty one, so that the empty inputs get gradients
        starts_q = starts_k = [0, 0]
    out = []
    for i in range(len(starts_q) - 1):
        rows_q, rows_k = slice(*starts_q[i : i + 2]), slice(*starts_k[i : i + 2])
        # [heads, rows, head_dim]
        qi, ki, vi = (_wide(t[rows]).transpose(0, 1) for t, rows in ((q, rows_q), (k, rows_k), (v, rows_k)))
        group = len(qi) // len(ki)
        ki, vi = ki.repeat_interleave(group, dim=0), vi.repeat_interleave(group, dim=0)
        scores = product(scale * qi, ki.transpose(1, 2))
        all_rows = torch.arange(qi.shape[1], device=q.device)
        positions = all_rows if query_positions is None else query_positions[rows_q].long()
        distance = torch.arange(ki.shape[1], device=q.device) - positions[:, None]
        if causal:
            scores = scores.masked_fill(distance > 0, float("-inf"))
        if window is not None:
            scores = scores.masked_fill((distance < -window[0]) | (distance > window[1]), float("-inf"))
        probabilities = scores.softmax(dim=-1)
        if dropout_p > 0.0:
            assert dropout_key is not None
            keep = attention_mask(dropout_key, i, positions, qi.shape[0], ki.shape[1], dropout_p)
            probabilities = probabilities * keep / (1.0 - dropout_p)
        out.append(product(probabilities, vi).transpose(0, 1))
    return torch.cat(out).to(q.dtype)


def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    terms: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
    *,
    causal: bool,
    query_positions: Tensor | None,
    scale: float,
    dropout_p: float,
    dropout_key: DropoutKey | None,
) -> Tensor:
    """Computes attention with terms of each distance, text by text; see :func:`pyllmclf.ops.relative_attention`.

    ``terms`` are its arguments ``buckets``, ``bias``, ``position_keys`` and ``position_queries``.
    """
    buckets, bias, position_keys, position_queries = terms
    out = [q[:0]]
    for i in range(len(cu_seqlens_q) - 1):
        rows_q, rows_k = (slice(*cu[i : i + 2].tolist()) for cu in (cu_seqlens_q, cu_seqlens_k))
        # [heads, rows, head_dim]
        qi, ki, vi = (_wide(t[rows]).transpose(0, 1) for t, rows in ((q, rows_q), (k, rows_k), (v, rows_k)))
        all_rows = torch.arange(qi.shape[1], device=q.device)
        positions = all_rows if query_positions is None else query_positions[rows_q].long()
        distance = torch.arange(ki.shape[1], device=q.device) - positions[:, None]
        bucket = buckets.long()[distance + len(buckets) // 2]
        scores = scale * (qi @ ki.transpose(1, 2))
        if bias is not None:
            scores = scores + _wide(bias)[:, bucket]
        if position_keys is not None:
            # [heads, queries, n_buckets]
            table = scale * (qi @ _wide(position_keys).permute(1, 2, 0))
            scores = scores + table.gather(2, bucket.expand(scores.shape))
        if position_queries is not None:
            table = scale * (ki @ _wide(position_queries).permute(1, 2, 0))
            scores = scores + table.gather(2, bucket.t().expand(scores.mT.shape)).mT
        if causal:
            scores = scores.masked_fill(distance > 0, float("-inf"))
        probabilities = scores.softmax(dim=-1)
        if dropout_p > 0.0:
            assert dropout_key is not None
            keep = attention_mask(dropout_key, i, positions, qi.shape[0], ki.shape[1], dropout_p)
            probabilities = probabilities * keep / (1.0 - dropout_p)
        out.append((probabilities @ vi).transpose(0, 1).to(q.dtype))
    return torch.cat(out)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, operands: torch.dtype | None = None) -> Tensor:
    """Computes x Wᵀ + b; with ``operands``, of x and W rounded to that dtype, and gradients of dY rounded to it."""
    if x.dtype is torch.float32 and weight.dtype is torch.bfloat16:
        weight = weight.float()
    if operands is None:
        return F.linear(x, weight, bias)
    y = F.linear(_Rounded.apply(x, operands, None), _Rounded.apply(weight, operands, None))
    y = _Rounded.apply(y, None, operands)
    return y if bias is None else y + bias


def lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    *,
    scaling: float,
    dropout_p: float,
    dropout_key: DropoutKey | None,
    operands: torch.dtype | None = None,
) -> Tensor:
    """Computes x Wᵀ + b + (drop(x) Aᵀ) (s B)ᵀ, each product as :func:`linear`."""
    thin = x
    if dropout_p > 0.0:
        assert dropout_key is not None
        thin = dropout(x, dropout_p, dropout_key)
    thin = linear(thin, lora_a, None, operands=operands)
    return linear(x, weight, bias, operands=operands) + linear(thin, scaling * lora_b, None, operands=operands)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Computes (x - mean) / sqrt(variance + eps) * weight + bias over the last axis."""
    return F.layer_norm(_wide(x), x.shape[-1:], _wide(weight), _wide(bias), eps).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    """Computes x / sqrt(mean(x^2) + eps) * (offset + weight) over the last axis."""
    wide = _wide(x)
    normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (normed * (offset + _wide(weight))).to(x.dtype)


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """Computes act(gate) * up."""
    wide = _wide(gate)
    act = F.silu(wide) if activation == "silu" else F.gelu(wide, approximate=GELUS[activation])
    return (act * _wide(up)).to(gate.dtype)


def gelu(x: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    """Computes GELU(x + bias)."""
    wide = _wide(x) if bias is None else _wide(x) + _wide(bias)
    return F.gelu(wide, approximate=approximate).to(x.dtype)


def embedding(
    input_ids: Tensor,
    positions: Tensor,
    token_weight: Tensor,
    position_weight: Tensor,
    type_weight: Tensor | None,
    types: Tensor | None,
) -> Tensor:
    """Sums token, position and type embeddings; without types, those of type 0, if there is a table."""
    summed = F.embedding(input_ids, token_weight) + F.embedding(positions, position_weight)
    if type_weight is None:
        return summed
    return summed + (type_weight[0] if types is None else F.embedding(types, type_weight))


def mean_rows(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Averages each text's rows."""
    starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    # On a GPU, a check of the lengths would make the host wait.
    return torch.segment_reduce(_wide(x), "mean", lengths=ends - starts, unsafe=x.is_cuda).to(x.dtype)


def dropout(x: Tensor, p: float, key: DropoutKey) -> Tensor:
    """Computes x * mask / (1 - p)."""
    keep = row_mask(key, x.shape[-1], p)
    return x * keep.to(x.dtype) / (1.0 - p)


def cross_entropy(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None, text_weight: Tensor | None = None
) -> Tensor:
    """Sums class_weight[label] * text_weight * -log softmax(logits)[label] over the rows."""
    logits = _wide(logits)
    class_weight = None if class_weight is None else class_weight.to(logits.dtype)
    if text_weight is None:
        return F.cross_entropy(logits, labels, class_weight, reduction="sum")
    return (F.cross_entropy(logits, labels, class_weight, reduction="none") * text_weight).sum()


def rotary(x: Tensor, cosine: Tensor, sine: Tensor, heads: int) -> Tensor:
    """Rotates the first ``heads`` heads of each row of x [rows, width] by the angles of its position."""
    half = cosine.shape[1]
    rotated, rest = x.tensor_split((2 * half * heads,), dim=1)
    # [rows, heads, 2, head_dim / 2]
    first, second = _wide(rotated).unflatten(1, (heads, 2, half)).unbind(2)
    c, s = (t[:, None].to(first.dtype) for t in (cosine, sine))
    out = torch.stack((first * c - second * s, second * c + first * s), dim=2).flatten(1)
    return torch.cat((out.to(x.dtype), rest), dim=1)
