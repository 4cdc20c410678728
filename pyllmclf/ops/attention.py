"""Attention over packed texts, with a switch for the causal mask."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from .attention_call import AttentionCall
from .backends import native_cpu
from .backends import triton as triton_backend
from .backends.triton import readable
from .dispatch import Choice, check_operands, choices, implementation
from .functions import apply
from .philox import DropoutKey, check_rate

if TYPE_CHECKING:
    from ..kernels.attention import Launch
    from ..kernels.tiles import PooledSchedule, Schedule

    Shape: TypeAlias = native_cpu.AttentionShape | Launch

choices(
    "attention",
    cpu=Choice("native", "variable length, any rows, window and dropout in one kernel", other="torch", triton=True),
    cuda=Choice(
        "triton",
        "variable length, any rows, window and dropout in one kernel; torch's has 16-bit dtypes only, and no dropout",
        other="torch",
        native="no",
        triton=True,
    ),
)


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
    schedule: Schedule | PooledSchedule | None = None,
    operands: torch.dtype | None = None,
) -> Tensor:
    """Computes softmax(scale q kᵀ + mask) v within each text (Vaswani et al. 2017).

    Parameters
    ----------
    q : tensor, shape [rows_q, heads, head_dim]
    k, v : tensor, shape [rows_k, kv_heads, head_dim]
        ``heads`` is a multiple of ``kv_heads``; query head ``h`` reads head ``h // (heads // kv_heads)`` (Ainslie et
        al. 2023).
    cu_seqlens_q, cu_seqlens_k : int32 tensor, shape [texts + 1]
        First row of each text in ``q``, and in ``k`` and ``v``; then the number of rows.
    max_seqlen_q, max_seqlen_k : int
        Rows of the longest text.
    causal : bool
        Whether a query sees no key after its own position.
    query_positions : int tensor, shape [rows_q], optional
        Position of each query in its text. By default the queries are all rows of their text, in order.
    scale : float, optional
        Default 1 / sqrt(head_dim).
    window : (int, int), optional
        Number of keys before and after its own position that a query sees.
    dropout_p : float
        Probability of dropping an attention probability.
    dropout_key : DropoutKey, optional
        Required if ``dropout_p`` is not 0.
    schedule : Schedule or PooledSchedule, optional
        Tiles of the batch, for Triton; see :mod:`pyllmclf.ops.schedule`.
    operands : torch.dtype, optional
        ``torch.bfloat16``: fp32 queries, keys, values and probabilities are rounded to it where they are multiplied,
        and so are the gradients of the output and of the scores; softmax and sums stay in fp32. On a CPU only.

    Returns
    -------
    tensor, shape [rows_q, heads, head_dim]
        In the dtype of ``q``.

    Raises
    ------
    UsageError
        If shapes don't fit each other, the window is negative, dropout has no key, or the chosen backend can't compute
        this.
    ValueError, IndexError
        If ``cu_seqlens`` or positions don't describe texts. Not checked on a GPU, since the host would have to wait.
    """
    fits = q.dim() == k.dim() == 3 and k.shape == v.shape and q.shape[2] == k.shape[2]
    if not fits or k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise UsageError(f"attention: shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)} don't fit.")
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise UsageError("attention: cu_seqlens_q and cu_seqlens_k count different numbers of texts.")
    if query_positions is None:
        # Usually one object: comparing the contents would make the host wait for a GPU.
        same_rows = cu_seqlens_q is cu_seqlens_k or torch.equal(cu_seqlens_q, cu_seqlens_k)
        if not (same_rows and q.shape[0] == k.shape[0] and max_seqlen_q == max_seqlen_k):
            raise UsageError("attention: queries that are a subset of the rows need query_positions.")
    if query_positions is not None and query_positions.shape != q.shape[:1]:
        raise UsageError(f"attention: {len(query_positions)} query_positions for {len(q)} queries.")
    _check_window(window)
    check_key(cu_seqlens_q, q, dropout_p, dropout_key)
    _check_schedule(schedule, cu_seqlens_q, len(q), len(k))
    check_operands(operands)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    call = AttentionCall(
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        causal=causal,
        scale=scale,
        query_positions=query_positions,
        window=window,
        dropout_p=dropout_p,
        dropout_key=dropout_key,
        schedule=schedule,
        operands=operands,
    )
    chosen = implementation("attention", q, k, v, unless=_obstacles(q.shape[2]))
    if chosen == "native":
        return apply(AttentionFunction, q, k, v, call.native_shape(q.shape, k.shape), native_cpu)
    if chosen == "triton" and operands is None:
        return apply(AttentionFunction, q, k, v, *call.triton_launch(q, k))
    return call.by_torch(chosen, q, k, v)


def attention_packed(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    heads: int,
    causal: bool,
    kv_heads: int | None = None,
    scale: float | None = None,
    window: tuple[int, int] | None = None,
    dropout_p: float = 0.0,
    dropout_key: DropoutKey | None = None,
    schedule: Schedule | None = None,
    operands: torch.dtype | None = None,
) -> Tensor:
    """Computes :func:`attention` of all rows of a fused projection, whose gradient is one tensor.

    Parameters
    ----------
    qkv : tensor, shape [total, (heads + 2 * kv_heads) * head_dim]
        Each row holds its query, key and value.
    cu_seqlens : int32 tensor, shape [texts + 1]
        First row of each text, then the number of rows.
    max_seqlen : int
        Rows of the longest text.
    heads : int
    kv_heads : int, optional
        Heads of keys and values; as many as of queries by default.
    causal, scale, window, dropout_p, dropout_key, schedule, operands
        As for :func:`attention`.

    Returns
    -------
    tensor, shape [total, heads * head_dim]
        In the dtype of ``qkv``.

    Raises
    ------
    UsageError, ValueError
        As :func:`attention`.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    if kv_heads < 1 or heads % kv_heads:
        raise UsageError(f"attention: {heads} heads of queries are no multiple of {kv_heads} heads of keys.")
    if qkv.dim() != 2 or qkv.shape[1] % (heads + 2 * kv_heads):
        held = f"{heads} heads of queries and 2 times {kv_heads} of keys and values"
        raise UsageError(f"attention: a projection of shape {tuple(qkv.shape)} doesn't hold {held}.")
    _check_window(window)
    check_key(cu_seqlens, qkv, dropout_p, dropout_key)
    _check_schedule(schedule, cu_seqlens, len(qkv), len(qkv))
    check_operands(operands)
    head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
    scale = head_dim**-0.5 if scale is None else scale
    call = AttentionCall(
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        causal=causal,
        scale=scale,
        window=window,
        dropout_p=dropout_p,
        dropout_key=dropout_key,
        schedule=schedule,
        operands=operands,
    )
    chosen = implementation("attention", qkv, unless=_obstacles(head_dim))
    if chosen == "native":
        shapes = (torch.Size((len(qkv), count, head_dim)) for count in (heads, kv_heads))
        return apply(PackedAttentionFunction, qkv, call.native_shape(*shapes), native_cpu)
    q, k, v = _split(qkv, heads, kv_heads)
    if chosen == "triton" and operands is None:
        return apply(PackedAttentionFunction, qkv, *call.triton_launch(q, k))
    return call.by_torch(chosen, q, k, v).flatten(1)


def _obstacles(head_dim: int) -> dict[str, str | None] | None:
    """Why a backend can't compute this head_dim, by backend; ``None`` if each can."""
    if head_dim <= triton_backend.MAX_HEAD_DIM:
        return None
    limits = {"native": native_cpu.MAX_HEAD_DIM, "triton": triton_backend.MAX_HEAD_DIM}
    return {
        backend: f"a head_dim of {head_dim}, above {limit}" if head_dim > limit else None
        for backend, limit in limits.items()
    }


def _check_window(window: tuple[int, int] | None) -> None:
    if window is not None and min(window) < 0:
        raise UsageError(f"attention: window={window} is negative; a query sees its own position at least.")


def check_key(
    cu_seqlens: Tensor, q: Tensor, dropout_p: float, dropout_key: DropoutKey | None, op: str = "attention"
) -> None:
    """Raises :class:`UsageError` unless offsets and rows are on one device and the dropout key is that of the texts."""
    if cu_seqlens.device != q.device:
        raise UsageError(f"{op}: cu_seqlens and the rows must be on one device.")
    check_rate(op, dropout_p)
    if dropout_p > 0.0 and dropout_key is None:
        raise UsageError(f"{op}: dropout needs a dropout_key.")
    if dropout_p > 0.0 and dropout_key is not None and len(dropout_key.example_ids) != len(cu_seqlens) - 1:
        texts = f"{len(dropout_key.example_ids)} texts, and cu_seqlens {len(cu_seqlens) - 1}"
        raise UsageError(f"{op}: the dropout_key has {texts}.")


def _check_schedule(schedule: Schedule | PooledSchedule | None, cu_seqlens: Tensor, rows_q: int, rows_k: int) -> None:
    if schedule is not None and not schedule.fits(len(cu_seqlens) - 1, rows_q, rows_k, cu_seqlens.device):
        raise UsageError("attention: the schedule is that of another batch, or of another device.")


def _split(qkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    sizes = heads, kv_heads, kv_heads
    q, k, v = qkv.unflatten(1, (sum(sizes), -1)).split(sizes, dim=1)
    return q, k, v


class AttentionFunction(torch.autograd.Function):
    """Saves q, k, v, the output and the log-sum-exp of each row of scores."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, shape: Shape, kernels: ModuleType) -> Tensor:
        q, k, v = readable(q), readable(k), readable(v)
        out, log_sum_exp = kernels.attention_forward(shape, q, k, v)
        ctx.save_for_backward(q, k, v, out, log_sum_exp)
        ctx.shape, ctx.kernels = shape, kernels
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor):
        q, k, v = ctx.saved_tensors[:3]
        gradients = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
        ctx.kernels.attention_backward(ctx.shape, ctx.saved_tensors, readable(dout), gradients)
        return *gradients, None, None


class PackedAttentionFunction(torch.autograd.Function):
    """As :class:`AttentionFunction`, on views of a fused projection and of its gradient."""

    @staticmethod
    def forward(ctx, qkv: Tensor, shape: Shape, kernels: ModuleType) -> Tensor:
        qkv = readable(qkv)
        out, log_sum_exp = kernels.attention_forward(shape, *_split(qkv, shape.heads, shape.kv_heads))
        ctx.save_for_backward(qkv, out, log_sum_exp)
        ctx.shape, ctx.kernels = shape, kernels
        return out.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor):
        qkv, out, log_sum_exp = ctx.saved_tensors
        heads = ctx.shape.heads, ctx.shape.kv_heads
        dqkv = qkv.new_empty(qkv.shape)
        inputs = (*_split(qkv, *heads), out, log_sum_exp)
        dout = readable(dout).unflatten(1, (heads[0], -1))
        ctx.kernels.attention_backward(ctx.shape, inputs, dout, _split(dqkv, *heads))
        return dqkv, None, None
