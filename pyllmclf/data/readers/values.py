"""Checks texts and labels, and converts labels, the same for every source."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from ...errors import DataError
from .options import ReadOptions
from .text_data import Label, TextData, without_empty
from .weights import with_weights


def checked_data(
    texts: list[Any],
    labels: list[Any] | None,
    origin: str,
    lines: list[int] | None,
    options: ReadOptions,
    weights: list[Any] | None = None,
) -> TextData:
    """Checks the values of all rows and makes :class:`TextData` of them; changes texts and labels in place.

    Parameters
    ----------
    texts : list
    labels : list, or None
        ``None`` where labels are not needed.
    origin : str
    lines : list of int, or None
        See :class:`TextData`.
    options : ReadOptions
    weights : list, optional
        Values of the column of weights, where ``options`` name one.

    Raises
    ------
    UsageError
        If ``options`` name a column of weights and ``weights`` is ``None``.
    DataError
        If there is no row, or a value is no text, no label or no weight; names its row.
    """
    data = TextData(texts, labels, origin, lines)
    if not texts:
        raise DataError(f"{origin}: there is no row.")
    data = with_weights(data, options.sample_weight, weights)  # before a row is left out
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            if not _is_missing(text):
                raise DataError(f"{data.where(row)}: the text is {shorten(text)}, not a string.")
            if options.empty_texts == "keep":
                advice = "; empty_texts='skip' (--empty-texts skip) leaves out texts that are missing"
                raise DataError(f"{data.where(row)}: the text is {shorten(text)}{advice if options.labelled else ''}.")
            texts[row] = text = ""
        _check_unicode(text, "text", data, row)
    separator = options.label_separator
    if labels is not None and separator is not None and _looks_like_indicator(labels):
        raise DataError(
            f"{origin}: the labels are rows of 0 and 1; to say which classes a text has, they must be a NumPy array."
        )
    if labels is not None:
        for row, label in enumerate(labels):
            labels[row] = _label(label, data, row) if separator is None else _several(label, separator, data, row)
    return without_empty(data, options.empty_texts)


def from_indicator(labels: Any) -> Any:
    """Labels of each text from an indicator of classes; any other labels as they are.

    Parameters
    ----------
    labels : array, sparse matrix or DataFrame of 0 and 1, shape [texts, classes], or other labels

    Returns
    -------
    list of list of int or str
        Indices of each text's classes, or the names of a DataFrame's columns.

    Raises
    ------
    DataError
        If a two-dimensional numeric array holds anything but 0 and 1.
    """
    if getattr(labels, "ndim", 1) != 2:
        return labels
    values = labels.toarray() if hasattr(labels, "toarray") else np.asarray(labels)
    if values.dtype.kind not in "biuf":  # names
        return labels
    if not np.isin(values, (0, 1)).all():
        raise DataError("labels of the shape [texts, classes] must be 0 and 1.")
    names = [str(c) for c in labels.columns] if hasattr(labels, "columns") else range(values.shape[1])
    return [[name for name, has in zip(names, row, strict=True) if has] for row in values.tolist()]


def shorten(value: Any) -> str:
    """``repr`` of a value, of at most 60 characters, for a message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _looks_like_indicator(labels: list[Any]) -> bool:
    """Whether lists of labels look like flags of the classes rather than like the labels of each text."""
    rows = [row for row in labels if isinstance(row, (list, tuple))]
    if len(rows) < len(labels) or len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        return False
    return all(isinstance(flag, (bool, int)) and flag in (0, 1) for row in rows for flag in row)


def _is_missing(value: Any) -> bool:
    """Whether a value is an empty cell of JSON, Arrow or pandas."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))


def _check_unicode(value: str, what: str, data: TextData, row: int) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{data.where(row)}: the {what} holds a lone surrogate, which is not valid Unicode.") from error


def _several(labels: Any, separator: str, data: TextData, row: int) -> tuple[Label, ...]:
    """Labels of one text, each once."""
    if isinstance(labels, str):
        labels = [name.strip() for name in labels.split(separator)] if labels.strip() else []
    elif _is_missing(labels):
        labels = []
    elif not hasattr(labels, "__iter__") or isinstance(labels, (bytes, dict)):
        labels = [labels]
    return tuple(dict.fromkeys(_label(label, data, row) for label in labels))


def _label(label: Any, data: TextData, row: int) -> Label:
    """A label as a string or an integer of Python."""
    if isinstance(label, str) and label:
        if not label.isascii():
            _check_unicode(label, "label", data, row)
        return str(label)
    if isinstance(label, (bool, np.bool_)):  # the names that Python and CSV files of pandas write
        return str(bool(label))
    if isinstance(label, numbers.Integral):
        return int(label)
    # A column of integers with a missing value, or one read by pandas, arrives as floats.
    if isinstance(label, numbers.Real) and float(label).is_integer():
        return int(float(label))
    if isinstance(label, (list, tuple, set)):
        raise DataError(
            f"{data.where(row)}: the label is {shorten(label)}; where texts have several labels, say multi_label=True "
            "(--multi-label)."
        )
    raise DataError(f"{data.where(row)}: the label is {shorten(label)}; a label is a non-empty string or an integer.")
