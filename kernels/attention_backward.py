"""Backward kernels of attention; ``attention.py`` has the formulas."""

import triton
import triton.language as tl

from .attention_common import COUNTS, WORDS, load_rows, owned_tile, seen_keys, seen_mask, store_rows
from .philox import keep


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
    """Adds dS K of blocks of keys to dQ."""
    for key in range(first_key, last_key, BLOCK_N):
        keys = key + tl.arange(0, BLOCK_N)
        k_tile = load_rows(k, begin_k, k_row, keys, count_k, HEAD_DIM, DEPTH, MASKED)
        v_tile = load_rows(v, begin_k, v_row, keys, count_k, HEAD_DIM, DEPTH, MASKED)
        scores = tl.dot(q, tl.trans(k_tile), input_precision="ieee") * scale
        p = tl.exp2(scores - log_sum_exp[:, None])
        dp = tl.dot(dout, tl.trans(v_tile), input_precision="ieee")
        if DROPOUT:
            dp = tl.where(keep(at, example, stream, key, seed, step, threshold, BLOCK_N), dp * keep_scale, 0.0)
        ds = p * (dp - delta[:, None])
        if MASKED:
            ds = tl.where(seen_mask(at, keys, count_k, window_left, window_right, CAUSAL, WINDOW), ds, 0.0)
        dq = tl.dot(ds.to(k_tile.dtype), k_tile, dq, input_precision="ieee")
    return dq


@triton.jit(do_not_specialize=WORDS + COUNTS)
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
    GROUP: tl.constexpr,
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
    k += head // GROUP * k_head
    v += head // GROUP * v_head
    text, first = owned_tile(tiles, index // heads, blocks, TILED, BLOCK_M)
    begin_q = tl.load(cu_seqlens_q + text).to(tl.int64)
    count_q = (tl.load(cu_seqlens_q + text + 1) - begin_q).to(tl.int32)
    if first >= count_q:
        return
    begin_k = tl.load(cu_seqlens_k + text).to(tl.int64)
    count_k = (tl.load(cu_seqlens_k + text + 1) - begin_k).to(tl.int32)
    at, start, whole, end = seen_keys(
        positions, first, begin_q, count_q, count_k, window_left, window_right, CAUSAL, SUBSET, WINDOW, BLOCK_M, BLOCK_N
    )
    example = 0
    head_stream = stream
    if DROPOUT:
        example = tl.load(example_ids + text).to(tl.uint32)
        head_stream = stream | (head << 16)
    rows = first + tl.arange(0, BLOCK_M)
    valid = rows < count_q
    q_tile = load_rows(q + head * q_head, begin_q, q_row, rows, count_q, HEAD_DIM, DEPTH, True)
    dout_tile = load_rows(dout + head * dout_head, begin_q, dout_row, rows, count_q, HEAD_DIM, DEPTH, True)
    out_tile = load_rows(out + head * out_head, begin_q, out_row, rows, count_q, HEAD_DIM, DEPTH, True)
    of_row = head.to(tl.int64) * rows_q + begin_q + rows
    row_delta = tl.sum(dout_tile.to(tl.float32) * out_tile.to(tl.float32), 1)
    tl.store(delta + of_row, row_delta, mask=valid)
    row_log_sum_exp = tl.load(log_sum_exp + of_row, mask=valid, other=0.0)
    gradient = tl.zeros((BLOCK_M, DEPTH), tl.float32)
    gradient = _dq_blocks(
        gradient, q_tile, dout_tile, row_log_sum_exp, row_delta, at, k, v, begin_k, count_k, k_row, v_row, start, whole,
        window_left, window_right, scale, example, seed, step, head_stream, threshold, keep_scale, HEAD_DIM, DEPTH,
        BLOCK_N, CAUSAL, WINDOW, DROPOUT, False,
    )  # fmt: skip
    gradient = _dq_blocks(
        gradient, q_tile, dout_tile, row_log_sum_exp, row_delta, at, k, v, begin_k, count_k, k_row, v_row, whole, end,
        window_left, window_right, scale, example, seed, step, head_stream, threshold, keep_scale, HEAD_DIM, DEPTH,
        BLOCK_N, CAUSAL, WINDOW, DROPOUT, True,
    )  # fmt: skip
    store_rows(dq + head * dq_head, begin_q, dq_row, rows, count_q, gradient * dq_scale, HEAD_DIM, DEPTH)


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
    """Adds dSᵀ Q and Pᵀ dO of blocks of queries to dK and dV.

    Queries past the text's end are rows of zeros, which add nothing; keys past it are computed but not stored.
    """
    keys = first_key + tl.arange(0, BLOCK_N)
    for query in range(first_query, last_query, BLOCK_M):
        rows = query + tl.arange(0, BLOCK_M)
        valid = rows < count_q
        q_tile = load_rows(q, begin_q, q_row, rows, count_q, HEAD_DIM, DEPTH, True)
        dout_tile = load_rows(dout, begin_q, dout_row, rows, count_q, HEAD_DIM, DEPTH, True)
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


@triton.jit(do_not_specialize=WORDS + COUNTS)
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
    kv_heads,
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
    GROUP: tl.constexpr,
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
    """Writes dK and dV, which sum over the GROUP query heads that read them."""
    index = tl.program_id(0)
    kv_head = index % kv_heads
    text, first = owned_tile(tiles, index // kv_heads, blocks, TILED, BLOCK_N)
    begin_k = tl.load(cu_seqlens_k + text).to(tl.int64)
    count_k = (tl.load(cu_seqlens_k + text + 1) - begin_k).to(tl.int32)
    if first >= count_k:
        return
    begin_q = tl.load(cu_seqlens_q + text).to(tl.int64)
    count_q = (tl.load(cu_seqlens_q + text + 1) - begin_q).to(tl.int32)
    example = 0
    if DROPOUT:
        example = tl.load(example_ids + text).to(tl.uint32)
    keys = first + tl.arange(0, BLOCK_N)
    k_tile = load_rows(k + kv_head * k_head, begin_k, k_row, keys, count_k, HEAD_DIM, DEPTH, True)
    v_tile = load_rows(v + kv_head * v_head, begin_k, v_row, keys, count_k, HEAD_DIM, DEPTH, True)
    dk_tile = tl.zeros((BLOCK_N, DEPTH), tl.float32)
    dv_tile = tl.zeros((BLOCK_N, DEPTH), tl.float32)
    # Queries before `diagonal` see none of these keys; queries from `below` to `last` see all.
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
    # What is hoisted out of this loop would take registers of the loops inside.
    for member in tl.range(0, GROUP, disable_licm=True):
        head = kv_head * GROUP + member
        head_stream = stream
        if DROPOUT:
            head_stream = stream | (head << 16)
        of_text = head.to(tl.int64) * rows_q + begin_q
        if CAUSAL or WINDOW:
            dk_tile, dv_tile = _dkdv_blocks(
                dk_tile, dv_tile, k_tile, v_tile, first, q + head * q_head, dout + head * dout_head,
                log_sum_exp + of_text, delta + of_text, positions, begin_q, count_q, q_row, dout_row, diagonal, below,
                window_left, window_right, scale, example, seed, step, head_stream, threshold, keep_scale, HEAD_DIM,
                DEPTH, BLOCK_M, BLOCK_N, SUBSET, DROPOUT, CAUSAL, WINDOW,
            )  # fmt: skip
        dk_tile, dv_tile = _dkdv_blocks(
            dk_tile, dv_tile, k_tile, v_tile, first, q + head * q_head, dout + head * dout_head, log_sum_exp + of_text,
            delta + of_text, positions, begin_q, count_q, q_row, dout_row, below, last, window_left, window_right,
            scale, example, seed, step, head_stream, threshold, keep_scale, HEAD_DIM, DEPTH, BLOCK_M, BLOCK_N, SUBSET,
            DROPOUT, False, False,
        )  # fmt: skip
    store_rows(dk + kv_head * dk_head, begin_k, dk_row, keys, count_k, dk_tile * dk_scale, HEAD_DIM, DEPTH)
    store_rows(dv + kv_head * dv_head, begin_k, dv_row, keys, count_k, dv_tile, HEAD_DIM, DEPTH)
