"""Weights of the training texts: a column of the data, or an array with a weight for each text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

from ...argument_checks import weights_array
from ...checks import is_number, plain
from ...errors import DataError, UsageError
from .options import ReadOptions
from .text_data import TextData

# A smaller share of the largest weight counts as 0: sums of weights must not underflow in fp32.
SMALLEST_SHARE = 2.0**-100


def with_weights(data: TextData, sample_weight: Any, column: Sequence[Any] | None = None) -> TextData:
    """Adds the weights that the argument ``sample_weight`` means.

    Parameters
    ----------
    data : TextData
        All rows of the source, before any is left out.
    sample_weight : str, array or None
        Name of a column, a number for each row, or no weights.
    column : sequence, optional
        Values of that column; ``None`` where the source has no columns, or its reader reads no weights.

    Raises
    ------
    UsageError
        If a column is named and there is none.
    DataError
        If the counts differ, or a value is no weight; names its row.
    """
    if sample_weight is None:
        return data
    if isinstance(sample_weight, str):
        if column is None:
            raise UsageError(
                f"sample_weight={sample_weight!r} names a column, and {data.origin} has no columns to choose from; "
                "give the weights as an array."
            )
        weights = [_weight(value, data, row) for row, value in enumerate(column)]
    elif isinstance(sample_weight, _Shares):
        weights = sample_weight.take(len(data))
    else:
        weights = weights_array("sample_weight", sample_weight).tolist()
    if len(weights) != len(data):
        raise _other_count(len(weights), len(data), data.origin)
    return replace(data, weights=weights)


def _other_count(weights: int, texts: int, origin: str) -> DataError:
    return DataError(f"sample_weight has {weights:,} weights for the {texts:,} texts of {origin}.")


class _Shares:
    """An array of weights, of which each of several parts of a source takes those of its rows, in order."""

    def __init__(self, sample_weight: Any) -> None:
        self.weights: list[float] = weights_array("sample_weight", sample_weight).tolist()
        self.rows = 0

    def take(self, count: int) -> list[float]:
        """Weights of the next part; where they don't suffice, any, since the count is checked in the end."""
        share = self.weights[self.rows : self.rows + count]
        self.rows += count
        return share + [1.0] * (count - len(share))


def read_parts(
    read: Callable[[Any, ReadOptions], TextData], parts: Sequence[Any], options: ReadOptions, origin: str
) -> list[TextData]:
    """Reads the parts of a source in their order; an array as ``sample_weight`` has the weights of all their rows.

    Raises
    ------
    DataError
        If the array has another number of weights; and as ``read``.
    """
    weight = options.sample_weight
    if weight is None or isinstance(weight, (str, _Shares)):
        return [read(part, options) for part in parts]
    shares = _Shares(weight)
    data = [read(part, replace(options, sample_weight=shares)) for part in parts]
    if shares.rows != len(shares.weights):
        raise _other_count(len(shares.weights), shares.rows, origin)
    return data


def without_zero_weights(data: TextData) -> TextData:
    """Leaves out the texts whose weight is 0, or less than ``SMALLEST_SHARE`` of the largest.

    Raises
    ------
    DataError
        If no text remains.
    """
    if data.weights is None:
        return data
    least = max(data.weights) * SMALLEST_SHARE
    rows = [row for row, weight in enumerate(data.weights) if weight > least]
    if not rows:
        raise DataError(f"{data.origin}: the sample_weight of every training text is zero; one must be greater.")
    return data if len(rows) == len(data) else data.select(rows)


def _weight(value: Any, data: TextData, row: int) -> float:
    """A value of a column as a weight; text of files is parsed."""
    value = plain(value)
    number = math.nan
    if isinstance(value, str):
        with suppress(ValueError):
            number = float(value)
    elif is_number(value) or isinstance(value, (bool, Decimal)):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not 0.0 <= number < math.inf:
        shown = repr(value)
        raise DataError(
            f"{data.where(row)}: the weight is {shown if len(shown) <= 60 else shown[:57] + '...'}; "
            "a weight is a finite number that is not negative."
        )
    return number
