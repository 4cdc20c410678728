"""One row for each text."""

from __future__ import annotations

from torch import Tensor

from ..errors import UsageError
from .backends import reference

POOLINGS = ("last", "last_position", "first", "mean")


def pool(x: Tensor, cu_seqlens: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Reads one row for each text.

    Parameters
    ----------
    x : tensor, shape [total, width]
    cu_seqlens : int32 tensor, shape [texts + 1]
    lengths : int tensor, shape [texts]
        Real tokens of each text.
    pooling : {"last", "last_position", "first", "mean"}
        The last real token; the last row, which may be padding; the first row; the mean of all rows, padding included.

    Returns
    -------
    tensor, shape [texts, width]
    """
    _check(pooling)
    return reference.pool(x, cu_seqlens, lengths, pooling)


def pooled_rows(cu_seqlens: Tensor, lengths: Tensor, pooling: str) -> Tensor | None:
    """The rows that :func:`pool` reads, int64, shape [texts]; ``None`` where it reads all of them.

    Parameters
    ----------
    cu_seqlens, lengths, pooling
        As for :func:`pool`.
    """
    _check(pooling)
    return None if pooling == "mean" else reference.pooled_rows(cu_seqlens, lengths, pooling)


def _check(pooling: str) -> None:
    if pooling not in POOLINGS:
        raise UsageError(f"pooling={pooling!r} is unknown; it is one of {', '.join(POOLINGS)}.")
