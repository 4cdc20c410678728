"""Forward kernel of attention; ``attention.py`` has the formulas."""

import triton
import triton.language as tl

from .attention_common import COUNTS, WORDS, load_rows, owned_tile, seen_keys, seen_mask, store_rows
from .philox import keep


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
    """Adds blocks of keys to the online softmax; returns its unnormalised output, maximum and sum of each query."""
    for key in range(first_key, last_key, BLOCK_N):
        keys = key + tl.arange(0, BLOCK_N)
        k_tile = load_rows(k, begin_k, k_row, keys, count_k, HEAD_DIM, DEPTH, MASKED)
        scores = tl.dot(q, tl.trans(k_tile), input_precision="ieee") * scale
        if MASKED:
            seen = seen_mask(at, keys, count_k, window_left, window_right, CAUSAL, WINDOW)
            scores = tl.where(seen, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        # Finite without a window: the first block holds key 0, which every query sees.
        base = new_largest
        if WINDOW:
            base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        p = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(largest - base)
        total = total * shrink + tl.sum(p, 1)
        largest = new_largest
        if DROPOUT:
            p = tl.where(keep(at, example, stream, key, seed, step, threshold, BLOCK_N), p * keep_scale, 0.0)
        v_tile = load_rows(v, begin_k, v_row, keys, count_k, HEAD_DIM, DEPTH, MASKED)
        accumulated = tl.dot(p.to(v_tile.dtype), v_tile, accumulated * shrink[:, None], input_precision="ieee")
    return accumulated, largest, total


@triton.jit(do_not_specialize=WORDS + COUNTS)
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
    """Writes out, and log_sum_exp in base 2."""
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
    q_tile = load_rows(q + head * q_head, begin_q, q_row, rows, count_q, HEAD_DIM, DEPTH, True)
    accumulated = tl.zeros((BLOCK_M, DEPTH), tl.float32)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    accumulated, largest, total = _forward_blocks(
        accumulated, largest, total, q_tile, at, k, v, begin_k, count_k, k_row, v_row, start, whole, window_left,
        window_right, scale, example, seed, step, head_stream, threshold, keep_scale, HEAD_DIM, DEPTH, BLOCK_N, CAUSAL,
        WINDOW, DROPOUT, False,
    )  # fmt: skip
    accumulated, largest, total = _forward_blocks(
        accumulated, largest, total, q_tile, at, k, v, begin_k, count_k, k_row, v_row, whole, end, window_left,
        window_right, scale, example, seed, step, head_stream, threshold, keep_scale, HEAD_DIM, DEPTH, BLOCK_N, CAUSAL,
        WINDOW, DROPOUT, True,
    )  # fmt: skip
    total = tl.where(total > 0.0, total, 1.0)  # in a text without keys, the output is 0
    store_rows(out + head * out_head, begin_q, out_row, rows, count_q, accumulated / total[:, None], HEAD_DIM, DEPTH)
    saved = log_sum_exp + head.to(tl.int64) * rows_q + begin_q + rows
    tl.store(saved, largest + tl.log2(total), mask=rows < count_q)
