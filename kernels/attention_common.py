"""Shared parts of attention's kernels: tiles, loads and stores of rows, and masks."""

import triton
import triton.language as tl

# Arguments that differ between launches and must not trigger a compilation.
WORDS = ["seed", "step", "stream", "threshold"]
COUNTS = ["rows_q", "heads", "kv_heads", "blocks", "window_left", "window_right"]


@triton.jit
def owned_tile(tiles, index, blocks, TILED: tl.constexpr, BLOCK: tl.constexpr):
    """Returns (text, first row within it) of a tile."""
    if TILED:
        text = tl.load(tiles + 2 * index)
        first = tl.load(tiles + 2 * index + 1)
    else:
        text = index // blocks
        first = (blocks - 1 - index % blocks) * BLOCK
    return text, first


@triton.jit
def load_rows(
    pointer, first, row_stride, rows, count, HEAD_DIM: tl.constexpr, DEPTH: tl.constexpr, MASKED: tl.constexpr
):
    """Loads a tile [len(rows), DEPTH] of one head; rows >= ``count`` and columns >= HEAD_DIM are zero."""
    columns = tl.arange(0, DEPTH)
    at = pointer + (first + rows)[:, None] * row_stride + columns[None, :]
    if MASKED:
        return tl.load(at, mask=(rows < count)[:, None] & (columns < HEAD_DIM)[None, :], other=0.0)
    if HEAD_DIM < DEPTH:
        return tl.load(at, mask=(columns < HEAD_DIM)[None, :], other=0.0)
    return tl.load(at)


@triton.jit
def store_rows(pointer, first, row_stride, rows, count, x, HEAD_DIM: tl.constexpr, DEPTH: tl.constexpr):
    """Stores a tile of one head, except rows >= ``count`` and columns >= HEAD_DIM."""
    columns = tl.arange(0, DEPTH)
    at = pointer + (first + rows)[:, None] * row_stride + columns[None, :]
    tl.store(at, x.to(pointer.dtype.element_ty), mask=(rows < count)[:, None] & (columns < HEAD_DIM)[None, :])


@triton.jit
def seen_keys(
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
    """Returns (position of each query, first key, first key of the blocks that need a mask, end of the keys)."""
    rows = first + tl.arange(0, BLOCK_M)
    if SUBSET:
        valid = rows < count_q
        at = tl.load(positions + begin_q + rows, mask=valid, other=0)
        # Below the largest int32, since 1 is added later.
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
def seen_mask(at, keys, count_k, window_left, window_right, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """Returns which keys each query sees, int1 [queries, keys]."""
    seen = (keys < count_k)[None, :]
    if CAUSAL:
        seen = seen & (keys[None, :] <= at[:, None])
    if WINDOW:
        seen = seen & (keys[None, :] >= at[:, None] - window_left) & (keys[None, :] <= at[:, None] + window_right)
    return seen
