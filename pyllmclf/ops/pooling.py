"""Pooling of packed texts: indices of the row that represents each text, and means of rows."""

from __future__ import annotations

from torch import Tensor

from .backends import reference


def first_rows(cu_seqlens: Tensor, lengths: Tensor) -> Tensor:
    """Index of each text's first row, int64, shape [texts].

    Parameters
    ----------
    cu_seqlens : int32 tensor, shape [texts + 1]
    lengths : int tensor, shape [texts]
        Real tokens of each text, without padding.
    """
    return cu_seqlens[:-1].long()


def last_rows(cu_seqlens: Tensor, lengths: Tensor) -> Tensor:
    """Index of each text's last real token, int64, shape [texts]; arguments as for :func:`first_rows`."""
    return cu_seqlens[:-1].long() + lengths.long() - 1


def last_positions(cu_seqlens: Tensor, lengths: Tensor) -> Tensor:
    """Index of each text's last row, possibly padding, int64, shape [texts]; arguments as for :func:`first_rows`."""
    return cu_seqlens[1:].long() - 1


def mean_rows(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Averages each text's rows, padding included.

    Parameters
    ----------
    x : tensor, shape [total, width]
    cu_seqlens : int32 tensor, shape [texts + 1]

    Returns
    -------
    tensor, shape [texts, width]
        In the dtype of ``x``; half-precision rows are averaged in fp32.
    """
    return reference.mean_rows(x, cu_seqlens)
