"""Dropout of packed rows. The backward pass is the same kernel on dY."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .philox import Dropout, keep

_ROWS, _COLUMNS, _WARPS = 8, 256, 4


@triton.jit(do_not_specialize=["rows", "seed", "step", "stream", "threshold"])
def _dropout_rows_kernel(
    x,
    y,
    example_ids,
    positions,
    x_row,
    y_row,
    rows,
    columns,
    seed,
    step,
    stream,
    threshold,
    keep_scale,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Writes y = x * mask * keep_scale for a tile of rows and columns."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    valid = row < rows
    inside = valid[:, None] & (column < columns)[None, :]
    at = tl.load(positions + row, mask=valid, other=0)
    example = tl.load(example_ids + row, mask=valid, other=0).to(tl.uint32)[:, None]
    kept = keep(at, example, stream, first, seed, step, threshold, COLUMNS)
    wide = row.to(tl.int64)[:, None]
    values = tl.load(x + wide * x_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    values = tl.where(kept, values * keep_scale, 0.0)
    tl.store(y + wide * y_row + column[None, :], values.to(y.dtype.element_ty), mask=inside)


def dropout_rows(x: torch.Tensor, dropout: Dropout) -> torch.Tensor:
    """Computes x * mask / (1 - p).

    Parameters
    ----------
    x : tensor, shape [rows, columns]
        fp32, bf16 or fp16; the last axis is contiguous.
    dropout : Dropout
        Its positions are not None.

    Returns
    -------
    tensor, shape [rows, columns], contiguous
        In the dtype of ``x``.
    """
    rows, columns = x.shape
    y = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    if y.numel():
        with torch.cuda.device_of(x):  # Triton launches on the current device
            _dropout_rows_kernel[triton.cdiv(rows, _ROWS), triton.cdiv(columns, _COLUMNS)](
                x,
                y,
                dropout.example_ids,
                dropout.positions,
                x.stride(0),
                y.stride(0),
                rows,
                columns,
                *dropout.words,
                dropout.scale,
                ROWS=_ROWS,
                COLUMNS=_COLUMNS,
                num_warps=_WARPS,
                enable_fp_fusion=True,
            )
    return y
