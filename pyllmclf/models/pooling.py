"""The poolings: how one row becomes each text's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .. import ops
from ..errors import UsageError


@dataclass(frozen=True)
class Pooling:
    """One pooling. Either a row of each text is chosen, or all rows are reduced to one.

    Attributes
    ----------
    name : str
        Value of the argument ``pooling``.
    rows : callable, optional
        Takes (cu_seqlens, lengths); returns the index of each text's row, int64, shape [texts].
    reduce : callable, optional
        Takes (x [total, width], cu_seqlens); returns one row for each text, shape [texts, width]. All rows count,
        padding included.
    reduce_padded : callable, optional
        Takes (x [texts, length, width], attention_mask [texts, length]); the same of real tokens alone.
    reads_padding : bool
        Whether the chosen row may be one of padding.
    first_alone : bool
        Whether the chosen row is each text's first: of a causal model, the only one that is computed.
    huggingface : str or None
        Value of ``classifier_pooling`` in Hugging Face's configurations, where there is one.
    unpadded : str
        The pooling that reads the same rows where there is no padding, if it is another one.
    """

    name: str
    rows: Callable[[Tensor, Tensor], Tensor] | None = None
    reduce: Callable[[Tensor, Tensor], Tensor] | None = None
    reduce_padded: Callable[[Tensor, Tensor], Tensor] | None = None
    reads_padding: bool = False
    first_alone: bool = False
    huggingface: str | None = None
    unpadded: str = ""

    @property
    def chooses(self) -> bool:
        """Whether one row of each text is read; otherwise all are."""
        return self.rows is not None

    def __call__(self, x: Tensor, cu_seqlens: Tensor, lengths: Tensor) -> Tensor:
        """One row for each text, shape [texts, width].

        Parameters
        ----------
        x : tensor, shape [total, width]
        cu_seqlens : int32 tensor, shape [texts + 1]
        lengths : int tensor, shape [texts]
            Real tokens of each text.
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
        Pooling("first", rows=ops.first_rows, first_alone=True, huggingface="cls"),
        Pooling("mean", reduce=ops.mean_rows, reduce_padded=_mean_of_tokens, huggingface="mean"),
    )
}


def pooling_of(name: str) -> Pooling:
    """The pooling of a name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name not in POOLINGS:
        raise UsageError(f"pooling={name!r} is unknown; it is one of {', '.join(POOLINGS)}.")
    return POOLINGS[name]
