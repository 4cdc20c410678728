"""Attention over packed texts, forward and backward: softmax(scale q kᵀ + mask) v of each text within itself.

Forward: online softmax over blocks of keys (Milakov and Gimelshein 2018; Dao 2023). Backward: probabilities are
computed again from the saved log2-sum-exp L:  P = 2^(S - L), dV = Pᵀ dO, dP = dO Vᵀ, dS = P (dP - rowsum(dO O)),
dQ = scale dS K, dK = scale dSᵀ Q.  With dropout, P is masked and scaled before it meets V, and dP likewise.

A program owns a tile of queries (forward, dQ) or of keys (dK and dV) of one text and one head, and walks over the other
side; so no sum needs atomics, and results are the same bits each time. Only blocks on the diagonal or at a text's end
are masked. dK and dV are computed from Sᵀ = K Qᵀ, so that no probability is transposed.
"""

from functools import cache

import torch
import triton
import triton.language as tl

from .configs import AttentionConfig, attention_config, capability
from .philox import Dropout, keep
from .tiles import PooledSchedule, Schedule, Tiles, tile_rows

LOG2_E = 1.4426950408889634
_WORDS = ["seed", "step", "stream", "threshold"]
_COUNTS = ["rows_q", "heads", "blocks", "window_left", "window_right"]


@triton.jit
def _owned(tiles, index, blocks, TILED: tl.constexpr, BLOCK: tl.constexpr):
    """(text, first row in it) of a tile."""
    if TILED:
        text = tl.load(tiles + 2 * index)
        first = tl.load(tiles + 2 * index + 1)
    else:
        text = index // blocks
        first = (blocks - 1 - index % blocks) * BLOCK
    return text, first


@triton.jit
def _rows(pointer, first, row_stride, rows, count, HEAD_DIM: tl.constexpr, DEPTH: tl.constexpr, MASKED: tl.constexpr):
    """A tile [len(rows), DEPTH] of one head; rows from ``count`` on and columns from HEAD_DIM on are zero."""
    columns = tl.arange(0, DEPTH)
    at = pointer + (first + rows)[:, None] * row_stride + columns[None, :]
    if MASKED:
        return tl.load(at, mask=(rows < count)[:, None] & (columns < HEAD_DIM)[None, :], other=0.0)
    if HEAD_DIM < DEPTH:
        return tl.load(at, mask=(columns < HEAD_DIM)[None, :], other=0.0)
    return tl.load(at)


@triton.jit
def _put_rows(pointer, first, row_stride, rows, count, x, HEAD_DIM: tl.constexpr, DEPTH: tl.constexpr):
    """Stores a tile of one head, but for rows from ``count`` on and columns from HEAD_DIM on."""
    columns = tl.arange(0, DEPTH)
    at = pointer + (first + rows)[:, None] * row_stride + columns[None, :]
    tl.store(at, x.to(pointer.dtype.element_ty), mask=(rows < count)[:, None] & (columns < HEAD_DIM)[None, :])


@triton.jit
def _seen_keys(
    positions,
    first,
    begin_q,
    count_q,
    count_k,
    window_left,
    window_right,
    CAUSAL: tl.constexpr,
    SUBSET: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """(position of each query, first block of keys, where blocks begin that need a mask, end of the keys)."""
    rows = first + tl.arange(0, BLOCK_M)
    if SUBSET:
        valid = rows < count_q
        at = tl.load(positions + begin_q + rows, mask=valid, other=0)
        # Less than the largest int32, for one is added below.
        lowest = tl.min(tl.where(valid, at, 2**31 - 2), 0)
        highest = tl.max(tl.where(valid, at, 0), 0)
    else:
        at = rows
        lowest = first
        highest = tl.minimum(first + BLOCK_M, count_q) - 1
    if CAUSAL:
        whole = tl.minimum(count_k, lowest + 1) // BLOCK_N * BLOCK_N
        end = tl.minimum(count_k, highest + 1)
    else:
        whole = count_k // BLOCK_N * BLOCK_N
        end = count_k
    start = 0
    if WINDOW:
        start = tl.maximum(lowest - window_left, 0) // BLOCK_N * BLOCK_N
        end = tl.minimum(end, highest + window_right + 1)
        whole = start
    return at, start, whole, end


@triton.jit
def _seen(at, keys, count_k, window_left, window_right, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """Which keys each query sees, [queries, keys]."""
    seen = (keys < count_k)[None, :]
    if CAUSAL:
        seen = seen & (keys[None, :] <= at[:, None])
    if WINDOW:
        seen = seen & (keys[None, :] >= at[:, None] - window_left) & (keys[None, :] <= at[:, None] + window_right)
    return seen


@triton.jit
def _forward_blocks(
    accumulated,
    largest,
    total,
    q,
    at,
    k,
    v,
    begin_k,
    count_k,
    k_row,
    v_row,
    first_key,
    last_key,
    window_left,
    window_right,
    scale,
    example,
    seed,
    step,
    stream,
    threshold,
    keep_scale,
    HEAD_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    DROPOUT: tl.constexpr,
    MASKED: tl.constexpr,
):
    for key in range(first_key, last_key, BLOCK_N):
        keys = key + tl.arange(0, BLOCK_N)
        k_tile = _rows(k, begin_k, k_row, keys, count_k, HEAD_DIM, DEPTH, MASKED)
        scores = tl.dot(q, tl.trans(k_tile), input_precision="ieee") * scale
        if MASKED:
            seen = _seen(at, keys, count_k, window_left, window_right, CAUSAL, WINDOW)
            scores = tl.where(seen, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        # Without a window it is finite: the first block holds key 0, which every query sees.
        base = new_largest
        if WINDOW:
            base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        p = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(largest - base)
        total = total * shrink + tl.sum(p, 1)
        largest = new_largest
        if DROPOUT:
            p = tl.where(keep(at, example, stream, key, seed, step, threshold, BLOCK_N), p * keep_scale, 0.0)
        v_tile = _rows(v, begin_k, v_row, keys, count_k, HEAD_DIM, DEPTH, MASKED)
        accumulated = tl.dot(p.to(v_tile.dtype), v_tile, accumulated * shrink[:, None], input_precision="ieee")
    return accumulated, largest, total


@triton.jit(do_not_specialize=_WORDS + _COUNTS)
def _attention_forward_kernel(
    q,
    k,
    v,
    out,
    log_sum_exp,
    cu_seqlens_q,
    cu_seqlens_k,
    positions,
    tiles,
    example_ids,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    out_row,
    out_head,
    rows_q,
    heads,
    blocks,
    window_left,
    window_right,
    scale,
    seed,
    step,
    stream,
    threshold,
    keep_scale,
    HEAD_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    SUBSET: tl.constexpr,
    WINDOW: tl.constexpr,
    TILED: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    index = tl.program_id(0)
    head = index % heads
    text, first = _owned(tiles, index // heads, blocks, TILED, BLOCK_M)
    begin_q = tl.load(cu_seqlens_q + text).to(tl.int64)
    count_q = (tl.load(cu_seqlens_q + text + 1) - begin_q).to(tl.int32)
    if first >= count_q:
        return
    begin_k = tl.load(cu_seqlens_k + text).to(tl.int64)
    count_k = (tl.load(cu_seqlens_k + text + 1) - begin_k).to(tl.int32)
    at, start, whole, end = _seen_keys(
        positions, first, begin_q, count_q, count_k, window_left, window_right, CAUSAL, SUBSET, WINDOW, BLOCK_M, BLOCK_N
    )
    example = 0
    head_stream = stream
    if DROPOUT:
        example = tl.load(example_ids + text).to(tl.uint32)
        head_stream = stream | (head << 16)
    rows = first + tl.arange(0, BLOCK_M)
    q_tile = _rows(q + head * q_head, begin_q, q_row, rows, count_q, HEAD_DIM, DEPTH, True)
    accumulated = tl.zeros((BLOCK_M, DEPTH), tl.float32)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    accumulated, largest, total = _forward_blocks(
        accumulated, largest, total, q_tile, at, k + head * k_head, v + head * v_head, begin_k, count_k, k_row, v_row,
        start, whole, window_left, window_right, scale, example, seed, step, head_stream, threshold, keep_scale,
        HEAD_DIM, DEPTH, BLOCK_N, CAUSAL, WINDOW, DROPOUT, False,
    )  # fmt: skip
    accumulated, largest, total = _forward_blocks(
        accumulated, largest, total, q_tile, at, k + head * k_head, v + head * v_head, begin_k, count_k, k_row, v_row,
        whole, end, window_left, window_right, scale, example, seed, step, head_stream, threshold, keep_scale,
        HEAD_DIM, DEPTH, BLOCK_N, CAUSAL, WINDOW, DROPOUT, True,
    )  # fmt: skip
    total = tl.where(total > 0.0, total, 1.0)  # of a text without keys: its output is 0
    _put_rows(out + head * out_head, begin_q, out_row, rows, count_q, accumulated / total[:, None], HEAD_DIM, DEPTH)
    saved = log_sum_exp + head.to(tl.int64) * rows_q + begin_q + rows
    tl.store(saved, largest + tl.log2(total), mask=rows < count_q)


@triton.jit
def _dq_blocks(
    dq,
    q,
    dout,
    log_sum_exp,
    delta,
    at,
    k,
    v,
    begin_k,
    count_k,
    k_row,
    v_row,
    first_key,
    last_key,
    window_left,
    window_right,
    scale,
    example,
    seed,
    step,
    stream,
    threshold,
    keep_scale,
    HEAD_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    DROPOUT: tl.constexpr,
    MASKED: tl.constexpr,
):
    for key in range(first_key, last_key, BLOCK_N):
        keys = key + tl.arange(0, BLOCK_N)
        k_tile = _rows(k, begin_k, k_row, keys, count_k, HEAD_DIM, DEPTH, MASKED)
        v_tile = _rows(v, begin_k, v_row, keys, count_k, HEAD_DIM, DEPTH, MASKED)
        scores = tl.dot(q, tl.trans(k_tile), input_precision="ieee") * scale
        p = tl.exp2(scores - log_sum_exp[:, None])
        dp = tl.dot(dout, tl.trans(v_tile), input_precision="ieee")
        if DROPOUT:
            dp = tl.where(keep(at, example, stream, key, seed, step, threshold, BLOCK_N), dp * keep_scale, 0.0)
        ds = p * (dp - delta[:, None])
        if MASKED:
            ds = tl.where(_seen(at, keys, count_k, window_left, window_right, CAUSAL, WINDOW), ds, 0.0)
        dq = tl.dot(ds.to(k_tile.dtype), k_tile, dq, input_precision="ieee")
    return dq


@triton.jit(do_not_specialize=_WORDS + _COUNTS)
def _attention_backward_dq_kernel(
    q,
    k,
    v,
    out,
    dout,
    log_sum_exp,
    delta,
    dq,
    cu_seqlens_q,
    cu_seqlens_k,
    positions,
    tiles,
    example_ids,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    out_row,
    out_head,
    dout_row,
    dout_head,
    dq_row,
    dq_head,
    rows_q,
    heads,
    blocks,
    window_left,
    window_right,
    scale,
    dq_scale,
    seed,
    step,
    stream,
    threshold,
    keep_scale,
    HEAD_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    SUBSET: tl.constexpr,
    WINDOW: tl.constexpr,
    TILED: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    """Writes dQ, and delta = rowsum(dO O) for the kernel of dK and dV."""
    index = tl.program_id(0)
    head = index % heads
    text, first = _owned(tiles, index // heads, blocks, TILED, BLOCK_M)
    begin_q = tl.load(cu_seqlens_q + text).to(tl.int64)
    count_q = (tl.load(cu_seqlens_q + text + 1) - begin_q).to(tl.int32)
    if first >= count_q:
        return
    begin_k = tl.load(cu_seqlens_k + text).to(tl.int64)
    count_k = (tl.load(cu_seqlens_k + text + 1) - begin_k).to(tl.int32)
    at, start, whole, end = _seen_keys(
        positions, first, begin_q, count_q, count_k, window_left, window_right, CAUSAL, SUBSET, WINDOW, BLOCK_M, BLOCK_N
    )
    example = 0
    head_stream = stream
    if DROPOUT:
        example = tl.load(example_ids + text).to(tl.uint32)
        head_stream = stream | (head << 16)
    rows = first + tl.arange(0, BLOCK_M)
    valid = rows < count_q
    q_tile = _rows(q + head * q_head, begin_q, q_row, rows, count_q, HEAD_DIM, DEPTH, True)
    dout_tile = _rows(dout + head * dout_head, begin_q, dout_row, rows, count_q, HEAD_DIM, DEPTH, True)
    out_tile = _rows(out + head * out_head, begin_q, out_row, rows, count_q, HEAD_DIM, DEPTH, True)
    of_row = head.to(tl.int64) * rows_q + begin_q + rows
    row_delta = tl.sum(dout_tile.to(tl.float32) * out_tile.to(tl.float32), 1)
    tl.store(delta + of_row, row_delta, mask=valid)
    row_log_sum_exp = tl.load(log_sum_exp + of_row, mask=valid, other=0.0)
    gradient = tl.zeros((BLOCK_M, DEPTH), tl.float32)
    gradient = _dq_blocks(
        gradient, q_tile, dout_tile, row_log_sum_exp, row_delta, at, k + head * k_head, v + head * v_head, begin_k,
        count_k, k_row, v_row, start, whole, window_left, window_right, scale, example, seed, step, head_stream,
        threshold, keep_scale, HEAD_DIM, DEPTH, BLOCK_N, CAUSAL, WINDOW, DROPOUT, False,
    )  # fmt: skip
    gradient = _dq_blocks(
        gradient, q_tile, dout_tile, row_log_sum_exp, row_delta, at, k + head * k_head, v + head * v_head, begin_k,
        count_k, k_row, v_row, whole, end, window_left, window_right, scale, example, seed, step, head_stream,
        threshold, keep_scale, HEAD_DIM, DEPTH, BLOCK_N, CAUSAL, WINDOW, DROPOUT, True,
    )  # fmt: skip
    _put_rows(dq + head * dq_head, begin_q, dq_row, rows, count_q, gradient * dq_scale, HEAD_DIM, DEPTH)


@triton.jit
def _dkdv_blocks(
    dk,
    dv,
    k,
    v,
    first_key,
    q,
    dout,
    log_sum_exp,
    delta,
    positions,
    begin_q,
    count_q,
    q_row,
    dout_row,
    first_query,
    last_query,
    window_left,
    window_right,
    scale,
    example,
    seed,
    step,
    stream,
    threshold,
    keep_scale,
    HEAD_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SUBSET: tl.constexpr,
    DROPOUT: tl.constexpr,
    CAUSAL_MASK: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Queries behind the text's end are rows of zeros and add nothing; keys behind it are rows that nobody stores."""
    keys = first_key + tl.arange(0, BLOCK_N)
    for query in range(first_query, last_query, BLOCK_M):
        rows = query + tl.arange(0, BLOCK_M)
        valid = rows < count_q
        q_tile = _rows(q, begin_q, q_row, rows, count_q, HEAD_DIM, DEPTH, True)
        dout_tile = _rows(dout, begin_q, dout_row, rows, count_q, HEAD_DIM, DEPTH, True)
        row_log_sum_exp = tl.load(log_sum_exp + rows, mask=valid, other=0.0)
        row_delta = tl.load(delta + rows, mask=valid, other=0.0)
        at = rows
        if SUBSET:
            at = tl.load(positions + begin_q + rows, mask=valid, other=0)
        # [keys, queries]
        scores = tl.dot(k, tl.trans(q_tile), input_precision="ieee") * scale
        p = tl.exp2(scores - row_log_sum_exp[None, :])
        if CAUSAL_MASK:
            p = tl.where(keys[:, None] <= at[None, :], p, 0.0)
        if WINDOW:
            near = (keys[:, None] >= at[None, :] - window_left) & (keys[:, None] <= at[None, :] + window_right)
            p = tl.where(near, p, 0.0)
        dp = tl.dot(v, tl.trans(dout_tile), input_precision="ieee")
        dropped = p
        if DROPOUT:
            kept = tl.trans(keep(at, example, stream, first_key, seed, step, threshold, BLOCK_N))
            dropped = tl.where(kept, p * keep_scale, 0.0)
            dp = tl.where(kept, dp * keep_scale, 0.0)
        dv = tl.dot(dropped.to(dout_tile.dtype), dout_tile, dv, input_precision="ieee")
        ds = p * (dp - row_delta[None, :])
        dk = tl.dot(ds.to(q_tile.dtype), q_tile, dk, input_precision="ieee")
    return dk, dv


@triton.jit(do_not_specialize=_WORDS + _COUNTS)
def _attention_backward_dkdv_kernel(
    q,
    k,
    v,
    dout,
    log_sum_exp,
    delta,
    dk,
    dv,
    cu_seqlens_q,
    cu_seqlens_k,
    positions,
    tiles,
    example_ids,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    dout_row,
    dout_head,
    dk_row,
    dk_head,
    dv_row,
    dv_head,
    rows_q,
    heads,
    blocks,
    window_left,
    window_right,
    scale,
    dk_scale,
    seed,
    step,
    stream,
    threshold,
    keep_scale,
    HEAD_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    SUBSET: tl.constexpr,
    WINDOW: tl.constexpr,
    TILED: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    index = tl.program_id(0)
    head = index % heads
    text, first = _owned(tiles, index // heads, blocks, TILED, BLOCK_N)
    begin_k = tl.load(cu_seqlens_k + text).to(tl.int64)
    count_k = (tl.load(cu_seqlens_k + text + 1) - begin_k).to(tl.int32)
    if first >= count_k:
        return
    begin_q = tl.load(cu_seqlens_q + text).to(tl.int64)
    count_q = (tl.load(cu_seqlens_q + text + 1) - begin_q).to(tl.int32)
    example = 0
    head_stream = stream
    if DROPOUT:
        example = tl.load(example_ids + text).to(tl.uint32)
        head_stream = stream | (head << 16)
    keys = first + tl.arange(0, BLOCK_N)
    k_tile = _rows(k + head * k_head, begin_k, k_row, keys, count_k, HEAD_DIM, DEPTH, True)
    v_tile = _rows(v + head * v_head, begin_k, v_row, keys, count_k, HEAD_DIM, DEPTH, True)
    of_text = head.to(tl.int64) * rows_q + begin_q
    dk_tile = tl.zeros((BLOCK_N, DEPTH), tl.float32)
    dv_tile = tl.zeros((BLOCK_N, DEPTH), tl.float32)
    # Queries before `diagonal` see none of these keys, those from `below` to `last` all of them.
    diagonal = 0
    below = 0
    last = count_q
    if CAUSAL or WINDOW:
        if SUBSET:
            below = count_q
        elif WINDOW:
            diagonal = first
            if not CAUSAL:
                diagonal = tl.maximum(first - window_right, 0)
            diagonal = diagonal // BLOCK_M * BLOCK_M
            below = tl.minimum(first + BLOCK_N + window_left, count_q)
            last = below
        else:
            diagonal = first // BLOCK_M * BLOCK_M
            below = tl.minimum(tl.cdiv(first + BLOCK_N, BLOCK_M) * BLOCK_M, count_q)
        dk_tile, dv_tile = _dkdv_blocks(
            dk_tile, dv_tile, k_tile, v_tile, first, q + head * q_head, dout + head * dout_head, log_sum_exp + of_text,
            delta + of_text, positions, begin_q, count_q, q_row, dout_row, diagonal, below, window_left, window_right,
            scale, example, seed, step, head_stream, threshold, keep_scale, HEAD_DIM, DEPTH, BLOCK_M, BLOCK_N, SUBSET,
            DROPOUT, CAUSAL, WINDOW,
        )  # fmt: skip
    dk_tile, dv_tile = _dkdv_blocks(
        dk_tile, dv_tile, k_tile, v_tile, first, q + head * q_head, dout + head * dout_head, log_sum_exp + of_text,
        delta + of_text, positions, begin_q, count_q, q_row, dout_row, below, last, window_left, window_right, scale,
        example, seed, step, head_stream, threshold, keep_scale, HEAD_DIM, DEPTH, BLOCK_M, BLOCK_N, SUBSET, DROPOUT,
        False, False,
    )  # fmt: skip
    _put_rows(dk + head * dk_head, begin_k, dk_row, keys, count_k, dk_tile * dk_scale, HEAD_DIM, DEPTH)
    _put_rows(dv + head * dv_head, begin_k, dv_row, keys, count_k, dv_tile, HEAD_DIM, DEPTH)


@cache
def processors(device: torch.device) -> int:
    """Programs that run at once, at least; the interpreter runs one after the other."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0


def depth_of(head_dim: int) -> int:
    """Columns of a tile: a power of two, and as many as a matrix instruction takes."""
    return max(16, triton.next_power_of_2(head_dim))


class Launch:
    """What the kernels of one attention call have in common.

    Parameters
    ----------
    q : tensor, shape [rows_q, heads, head_dim]
    cu_seqlens_q, cu_seqlens_k : int32 tensor, shape [texts + 1]
    max_seqlen_q, max_seqlen_k : int
    causal : bool
    scale : float
    query_positions : int32 tensor, shape [rows_q], optional
    window : (int, int), optional
    dropout : Dropout, optional
    schedule : Schedule or PooledSchedule, optional
        The tiles of the batch in their order; without it, each text takes as many tiles as the longest.
    """

    def __init__(
        self,
        q: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        *,
        causal: bool,
        scale: float,
        query_positions: torch.Tensor | None = None,
        window: tuple[int, int] | None = None,
        dropout: Dropout | None = None,
        schedule: Schedule | PooledSchedule | None = None,
    ) -> None:
        self.offsets = cu_seqlens_q, cu_seqlens_k
        self.longest = max_seqlen_q, max_seqlen_k
        self.rows_q, self.heads, self.head_dim = q.shape
        self.bits = 8 * q.element_size()
        self.scale, self.causal = scale, causal
        self.positions, self.schedule = query_positions, schedule
        self.dropout, self.window = dropout, window
        self.device = q.device

    def tiles(self, side: str) -> list[Tiles]:
        """The launches of a kernel that owns tiles of queries (side "q") or of keys ("k")."""
        long = 64 if self.bits == 32 else 128
        longest = self.longest[0 if side == "q" else 1]
        rows = tile_rows(longest, long)
        blocks = triton.cdiv(longest, rows)
        count = (len(self.offsets[0]) - 1) * blocks
        # Where all run at once, their order doesn't matter, and another launch takes longer than larger tiles.
        if self.schedule is None or count * self.heads <= processors(self.device):
            return [Tiles(rows, count, blocks, None)]
        return self.schedule.tiles(side, long, causal=self.causal and self.positions is None)

    def run(self, kernel, name: str, side: str, tensors: tuple, strides: tuple, scales: tuple[float, ...]) -> None:
        """Launches a kernel on all tiles of one side."""
        dropout = self.dropout or Dropout.none()
        for tiles in self.tiles(side):
            if not tiles.count:
                continue
            masked = self.dropout is not None or self.positions is not None or self.window is not None
            depth, at = depth_of(self.head_dim), capability(self.device)
            config = attention_config(name, self.bits, depth, tiles.rows, at, masked=masked)
            with torch.cuda.device_of(tensors[0]):  # Triton launches on the current device
                kernel[(tiles.count * self.heads,)](
                    *tensors,
                    *self.offsets,
                    self.positions,
                    tiles.table,
                    dropout.example_ids,
                    *strides,
                    self.rows_q,
                    self.heads,
                    tiles.blocks,
                    *(self.window or (0, 0)),
                    *scales,
                    *dropout.words,
                    dropout.scale,
                    **self.constants(config, tiles.table is not None),
                    num_warps=config.num_warps,
                    num_stages=config.num_stages,
                    enable_fp_fusion=True,
                )

    def constants(self, config: AttentionConfig, tiled: bool) -> dict[str, int | bool]:
        return {
            "HEAD_DIM": self.head_dim,
            "DEPTH": depth_of(self.head_dim),
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "CAUSAL": self.causal,
            "SUBSET": self.positions is not None,
            "WINDOW": self.window is not None,
            "TILED": tiled,
            "DROPOUT": self.dropout is not None,
        }


def attention_forward(
    launch: Launch, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and what its backward pass needs.

    Parameters
    ----------
    launch : Launch
    q : tensor, shape [rows_q, heads, head_dim]
        fp32, bf16 or fp16; the last axis is contiguous, rows and heads may have any stride.
    k, v : tensor, shape [rows_k, heads, head_dim]

    Returns
    -------
    out : tensor, shape [rows_q, heads, head_dim], contiguous
    log_sum_exp : fp32 tensor, shape [heads, rows_q]
        To base 2.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    log_sum_exp = torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=q.device)
    launch.run(
        _attention_forward_kernel,
        "forward",
        "q",
        (q, k, v, out, log_sum_exp),
        _strides(q, k, v, out),
        (launch.scale * LOG2_E,),
    )
    return out, log_sum_exp


def attention_backward(
    launch: Launch,
    inputs: tuple[torch.Tensor, ...],
    dout: torch.Tensor,
    gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """Writes dq, dk and dv, which may be parts of one tensor.

    Parameters
    ----------
    launch : Launch
    inputs : (q, k, v, out, log_sum_exp)
        As :func:`attention_forward` took and returned them.
    dout : tensor, shape [rows_q, heads, head_dim]
        The last axis is contiguous.
    gradients : (dq, dk, dv)
        Of the shapes of q, k and v; the last axis is contiguous.
    """
    dq, dk, dv = gradients
    delta = backward_dq(launch, inputs, dout, dq)
    backward_dkdv(launch, inputs, dout, delta, dk, dv)


def backward_dq(launch: Launch, inputs: tuple[torch.Tensor, ...], dout: torch.Tensor, dq: torch.Tensor) -> torch.Tensor:
    """Writes dq; returns rowsum(dO O), fp32, shape [heads, rows_q]."""
    q, k, v, out, log_sum_exp = inputs
    delta = torch.empty_like(log_sum_exp)
    launch.run(
        _attention_backward_dq_kernel,
        "dq",
        "q",
        (q, k, v, out, dout, log_sum_exp, delta, dq),
        _strides(q, k, v, out, dout, dq),
        (launch.scale * LOG2_E, launch.scale),
    )
    return delta


def backward_dkdv(
    launch: Launch,
    inputs: tuple[torch.Tensor, ...],
    dout: torch.Tensor,
    delta: torch.Tensor,
    dk: torch.Tensor,
    dv: torch.Tensor,
) -> None:
    """Writes dk and dv; ``delta`` is what :func:`backward_dq` returned."""
    q, k, v, _, log_sum_exp = inputs
    launch.run(
        _attention_backward_dkdv_kernel,
        "dkdv",
        "k",
        (q, k, v, dout, log_sum_exp, delta, dk, dv),
        _strides(q, k, v, dout, dk, dv),
        (launch.scale * LOG2_E, launch.scale),
    )


def _strides(*tensors: torch.Tensor) -> tuple[int, ...]:
    return tuple(t.stride(axis) for t in tensors for axis in (0, 1))
