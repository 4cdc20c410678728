"""Pooling: the vector per text that the head reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .. import ops
from ..errors import UsageError


@dataclass(frozen=True)
class Pooling:
    """One pooling: it selects one row per text (``rows``), or reduces all rows of a text to one (``reduce``).

    Attributes
    ----------
    name : str
        Value of the argument ``pooling``.
    rows : callable, optional
        Takes (cu_seqlens, lengths); returns the index of each text's row, int64, shape [texts].
    reduce : callable, optional
        Takes (x [total, width], cu_seqlens); returns one row per text, shape [texts, width]. All rows count, padding
        included.
    reduce_padded : callable, optional
        Takes (x [texts, length, width], attention_mask [texts, length]); returns the same of real tokens only.
    reads_padding : bool
        Whether the selected row may be a padding token's.
    first_row_only : bool
        Whether the selected row is each text's first one; a causal model computes no other.
    huggingface : str or None
        Value of ``classifier_pooling`` in Hugging Face's configurations, if it has one.
    unpadded : str
        Name of the pooling that reads the same rows where nothing is padded, if there is another.
    """

    name: str
    rows: Callable[[Tensor, Tensor], Tensor] | None = None
    reduce: Callable[[Tensor, Tensor], Tensor] | None = None
    reduce_padded: Callable[[Tensor, Tensor], Tensor] | None = None
    reads_padding: bool = False
    first_row_only: bool = False
    huggingface: str | None = None
    unpadded: str = ""

    @property
    def selects_row(self) -> bool:
        """Whether one row per text is read rather than all."""
        return self.rows is not None

    def __call__(self, x: Tensor, cu_seqlens: Tensor, lengths: Tensor) -> Tensor:
        """Pools packed rows.

        Parameters
        ----------
        x : tensor, shape [total, width]
        cu_seqlens : int32 tensor, shape [texts + 1]
        lengths : int tensor, shape [texts]
            Number of real tokens of each text.

        Returns
        -------
        tensor, shape [texts, width]
        """
        if self.rows is not None:
            return x[self.rows(cu_seqlens, lengths)]
        assert self.reduce is not None
        return self.reduce(x, cu_seqlens)


def _mean_of_tokens(x: Tensor, attention_mask: Tensor) -> Tensor:
    weight = attention_mask.to(x.dtype)[:, :, None]
    return (x * weight).sum(dim=1) / weight.sum(dim=1)


POOLINGS: dict[str, Pooling] = {
    pooling.name: pooling
    for pooling in (
        Pooling("last", rows=ops.last_rows),
        Pooling("last_position", rows=ops.last_positions, reads_padding=True, unpadded="last"),
        Pooling("first", rows=ops.first_rows, first_row_only=True, huggingface="cls"),
        Pooling("mean", reduce=ops.mean_rows, reduce_padded=_mean_of_tokens, huggingface="mean"),
    )
}


def pooling_of(name: str) -> Pooling:
    """The pooling with a name.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    if name not in POOLINGS:
        raise UsageError(f"pooling={name!r} is unknown; it is one of {', '.join(POOLINGS)}.")
    return POOLINGS[name]
