"""LoRA inside the matmul: a frozen weight's matmul plus a low-rank product, and the thin products of its backward pass.

Forward, with S = drop(x) Aᵀ from the library:  y = s S Bᵀ + x Wᵀ + b; the accumulator starts at s S Bᵀ.
Backward, with dS = s dY B:  dX = drop(dS A) + dY W, by the same kernel; dA = dSᵀ drop(x) by the library. One pass over
dY computes dB = s dYᵀ S and dS: each program sums over its share of rows and columns, and the shares are added in
order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .configs import lora_config
from .philox import Dropout, keep

_COUNTS = ["rows"]
_WORDS = ["seed", "step", "stream", "threshold"]
# Tiles of rows that share the column tiles at one time, so that these stay in the L2 cache.
_GROUP = 8
# Columns of the thin matrices per block. For a higher rank, the matmul loops over blocks; the pass over dY would read
# dY several times, and the library's two matmuls are as good.
THIN_RANK = 64


@triton.jit(do_not_specialize=[*_COUNTS, *_WORDS])
def _lora_linear_product_kernel(
    x,
    weight,
    bias,
    thin,
    factor,
    y,
    example_ids,
    positions,
    x_row,
    weight_depth,
    weight_column,
    thin_row,
    factor_rank,
    factor_column,
    y_row,
    rows,
    columns,
    depth,
    rank,
    factor_scale,
    seed,
    step,
    stream,
    threshold,
    keep_scale,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    RANK: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN_DEPTH: tl.constexpr,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    """Writes y = factor_scale drop(thin factor) + x weight + bias; x [rows, depth], thin [rows, rank]."""
    index = tl.program_id(0)
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(columns, COLUMNS)
    group = index // (GROUP * column_tiles)
    group_rows = tl.minimum(row_tiles - group * GROUP, GROUP)
    within = index % (GROUP * column_tiles)
    row = (group * GROUP + within % group_rows) * ROWS + tl.arange(0, ROWS)
    first_column = within // group_rows * COLUMNS
    column = first_column + tl.arange(0, COLUMNS)
    # Indices past the edges wrap around to valid rows and columns; the store masks their results.
    row_read = (row % rows).to(tl.int64)
    column_read = (column % columns).to(tl.int64)

    accumulated = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first_rank in tl.range(0, rank, RANK, num_stages=1):
        rank_at = first_rank + tl.arange(0, RANK)
        valid = rank_at < rank
        thin_tile = tl.load(thin + row_read[:, None] * thin_row + rank_at[None, :], mask=valid[None, :], other=0.0)
        factor_tile = tl.load(
            factor + rank_at[:, None] * factor_rank + column_read[None, :] * factor_column,
            mask=valid[:, None],
            other=0.0,
        )
        accumulated = tl.dot(thin_tile, factor_tile, accumulated, input_precision="ieee")
    accumulated *= factor_scale
    if DROPOUT:
        position = tl.load(positions + row_read)
        example = tl.load(example_ids + row_read).to(tl.uint32)[:, None]
        kept = keep(position, example, stream, first_column, seed, step, threshold, COLUMNS)
        accumulated = tl.where(kept, accumulated * keep_scale, 0.0)

    x_at = x + row_read[:, None] * x_row + tl.arange(0, DEPTH)[None, :]
    weight_at = weight + column_read[None, :] * weight_column + tl.arange(0, DEPTH)[:, None] * weight_depth
    for first in range(0, depth, DEPTH):
        if EVEN_DEPTH:
            x_tile = tl.load(x_at)
            weight_tile = tl.load(weight_at)
        else:
            inside = first + tl.arange(0, DEPTH) < depth
            x_tile = tl.load(x_at, mask=inside[None, :], other=0.0)
            weight_tile = tl.load(weight_at, mask=inside[:, None], other=0.0)
        accumulated = tl.dot(x_tile, weight_tile, accumulated, input_precision="ieee")
        x_at += DEPTH
        weight_at += DEPTH * weight_depth
    if BIAS:
        accumulated += tl.load(bias + column_read).to(tl.float32)[None, :]
    tl.store(
        y + row.to(tl.int64)[:, None] * y_row + column[None, :],
        accumulated.to(y.dtype.element_ty),
        mask=(row < rows)[:, None] & (column < columns)[None, :],
    )


@triton.jit(do_not_specialize=[*_COUNTS, "row_share"])
def _lora_linear_thin_kernel(
    dy,
    thin,
    lora_b,
    dthin_shares,
    db_shares,
    dy_row,
    thin_row,
    b_row,
    rows,
    columns,
    rank,
    row_share,
    scale,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
):
    """Writes shares of scale dY B [column tiles, rows, RANK] and of scale dYᵀ thin [row shares, columns, RANK].

    dY is read once.
    """
    column_tile = tl.program_id(0)
    share = tl.program_id(1)
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    at = tl.arange(0, RANK)
    b_tile = tl.load(
        lora_b + column.to(tl.int64)[:, None] * b_row + at[None, :],
        mask=(column < columns)[:, None] & (at < rank)[None, :],
        other=0.0,
    )
    db = tl.zeros((COLUMNS, RANK), tl.float32)
    last = tl.minimum((share + 1) * row_share, rows)
    for first in range(share * row_share, last, ROWS):
        row = first + tl.arange(0, ROWS)
        valid = row < last
        wide = row.to(tl.int64)
        dy_tile = tl.load(
            dy + wide[:, None] * dy_row + column[None, :], mask=valid[:, None] & (column < columns)[None, :], other=0.0
        )
        thin_tile = tl.load(
            thin + wide[:, None] * thin_row + at[None, :], mask=valid[:, None] & (at < rank)[None, :], other=0.0
        )
        dthin = tl.dot(dy_tile, b_tile, input_precision="ieee")
        db = tl.dot(tl.trans(dy_tile), thin_tile, db, input_precision="ieee")
        target = dthin_shares + (column_tile.to(tl.int64) * rows + wide)[:, None] * RANK + at[None, :]
        tl.store(target, dthin * scale, mask=valid[:, None])
    target = db_shares + (share.to(tl.int64) * columns + column)[:, None] * RANK + at[None, :]
    tl.store(target, db * scale, mask=(column < columns)[:, None])


def product_with_low_rank(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    thin: torch.Tensor,
    factor: torch.Tensor,
    scale: float,
    dropout: Dropout | None = None,
) -> torch.Tensor:
    """Computes scale drop(thin factor) + x weight + bias in one pass.

    Parameters
    ----------
    x : tensor, shape [rows, depth]
        fp32, bf16 or fp16, as all others; the last axis is contiguous.
    weight : tensor, shape [depth, columns]
        Of any strides: a layer's weight [out, in], transposed or not.
    bias : tensor, shape [columns], optional
    thin : tensor, shape [rows, rank]
        The last axis is contiguous.
    factor : tensor, shape [rank, columns]
    scale : float
    dropout : Dropout, optional
        Dropout of ``thin factor``; its positions are not None.

    Returns
    -------
    tensor, shape [rows, columns], contiguous
        In the dtype of ``x``.
    """
    rows, depth = x.shape
    columns, rank = weight.shape[1], thin.shape[1]
    y = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    if not y.numel():
        return y
    config = lora_config("product", 8 * x.element_size(), rows, x.device)
    masks = dropout or Dropout.none()
    grid = (triton.cdiv(rows, config.rows) * triton.cdiv(columns, config.columns),)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _lora_linear_product_kernel[grid](
            x,
            weight,
            bias,
            thin,
            factor,
            y,
            masks.example_ids,
            masks.positions,
            x.stride(0),
            *weight.stride(),
            thin.stride(0),
            *factor.stride(),
            y.stride(0),
            rows,
            columns,
            depth,
            rank,
            scale,
            *masks.words,
            masks.scale,
            ROWS=config.rows,
            COLUMNS=config.columns,
            DEPTH=config.depth,
            RANK=rank_block(rank),
            GROUP=_GROUP,
            EVEN_DEPTH=depth % config.depth == 0,
            BIAS=bias is not None,
            DROPOUT=dropout is not None,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            enable_fp_fusion=True,
        )
    return y


def rank_block(rank: int) -> int:
    """Columns of the thin matrices per block: a power of two, at least the 16 of a matrix instruction."""
    return min(THIN_RANK, max(16, triton.next_power_of_2(rank)))


def thin_gradients(
    dy: torch.Tensor, thin: torch.Tensor, lora_b: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes scale dY B and scale dYᵀ thin in one pass over dY.

    Parameters
    ----------
    dy : tensor, shape [rows, columns]
        fp32, bf16 or fp16, as the others; the last axis of each is contiguous.
    thin : tensor, shape [rows, rank]
    lora_b : tensor, shape [columns, rank]
    scale : float

    Returns
    -------
    dthin : fp32 tensor, shape [rows, rank]
    db : fp32 tensor, shape [columns, rank]

    Raises
    ------
    ValueError
        If the rank is above THIN_RANK.
    """
    (rows, columns), rank = dy.shape, thin.shape[1]
    if rank > THIN_RANK:
        raise ValueError(f"rank {rank} is above {THIN_RANK}")
    config = lora_config("thin", 8 * dy.element_size(), rows, dy.device)
    block = rank_block(rank)
    column_tiles = triton.cdiv(columns, config.columns)
    # About two programs per multiprocessor of a large GPU; each takes whole tiles of rows.
    target = max(1, 256 // column_tiles)
    row_share = max(1, triton.cdiv(triton.cdiv(rows, config.rows), target)) * config.rows
    shares = triton.cdiv(rows, row_share)
    dthin = torch.empty(column_tiles, rows, block, dtype=torch.float32, device=dy.device)
    db = torch.empty(shares, columns, block, dtype=torch.float32, device=dy.device)
    if shares:
        with torch.cuda.device_of(dy):  # Triton launches on the current device
            _lora_linear_thin_kernel[column_tiles, shares](
                dy,
                thin,
                lora_b,
                dthin,
                db,
                dy.stride(0),
                thin.stride(0),
                lora_b.stride(0),
                rows,
                columns,
                rank,
                row_share,
                scale,
                ROWS=config.rows,
                COLUMNS=config.columns,
                RANK=block,
                num_warps=config.num_warps,
                num_stages=config.num_stages,
                enable_fp_fusion=True,
            )
    return dthin.sum(0)[:, :rank], db.sum(0)[:, :rank]
