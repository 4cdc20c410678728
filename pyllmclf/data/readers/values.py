"""Checks texts and labels, and converts labels, the same for every source."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from ...errors import DataError
from ...text_pair import TextPair
from .missing import is_missing
from .options import ReadOptions
from .text_data import INTEGERS, Fault, Label, TextData, mixed_texts, without_empty
from .weights import with_weights


class _Invalid(Exception):
    """A value that is no text or no label: (kind of the fault, problem)."""


def checked_data(
    texts: list[Any],
    labels: list[Any] | None,
    origin: str,
    lines: list[int] | None,
    options: ReadOptions,
    weights: list[Any] | None = None,
    *,
    untyped: bool = False,
    broken: Sequence[Fault] = (),
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
    untyped : bool
        Whether the source is text, as CSV: numbers among its labels are strings, and an empty field is missing.
    broken : sequence of Fault
        Rows that the reader has left out; see :func:`broken_row`.

    Raises
    ------
    UsageError
        If ``options`` name a column of weights and ``weights`` is ``None``.
    DataError
        If there is no row, or a value is no text, no label or no weight; names its row.
    """
    data = TextData(texts, labels, origin, lines, untyped=untyped)
    if not texts and not broken:
        raise DataError(f"{origin}: there is no row.")
    _check_pairs(texts, data, options)
    data = with_weights(data, options.sample_weight, weights)  # before a row is left out
    faults: dict[int, Fault] = {}

    def check_all(values: list[Any], check: Callable[[Any], Any]) -> None:
        for row, value in enumerate(values):
            try:
                values[row] = check(value)
            except _Invalid as invalid:
                fault = Fault(invalid.args[0], data.where(row), invalid.args[1])
                if not options.collects and (options.missing == "error" or not fault.is_missing):
                    raise DataError(f"{fault.where}: {fault.problem}.") from None
                faults.setdefault(row, fault)

    blank_is_missing = untyped and options.blank_is_missing
    check_all(texts, lambda text: _text(text, options, blank_is_missing))
    separator = options.label_separator
    if labels is not None and separator is not None and _looks_like_indicator(labels):
        raise DataError(
            f"{origin}: the labels are rows of 0 and 1; to say which classes a text has, they must be a NumPy array."
        )
    if labels is not None:
        check_all(labels, _label if separator is None else lambda label: _several(label, separator))
    if faults:
        data = _without(data, faults, options)
    if broken:
        data = replace(data, faults=(*broken, *data.faults))
    return without_empty(data, options.empty_texts)


def broken_row(where: str, problem: str, options: ReadOptions) -> Fault:
    """A row that can't be read, where faults are collected.

    Raises
    ------
    DataError
        Otherwise.
    """
    if not options.collects:
        raise DataError(f"{where}: {problem}.")
    return Fault("row", where, problem)


def _without(data: TextData, faults: dict[int, Fault], options: ReadOptions) -> TextData:
    """The rows without faults; where faults are collected, with all of them."""
    kept = [row for row in range(len(data)) if row not in faults]
    if options.collects:
        return replace(data.select(kept), faults=tuple(faults[row] for row in sorted(faults)))
    if not kept:
        raise DataError(f"{data.origin}: every row lacks its text or its label; none is left.")
    return replace(data.select(kept), skipped=data.skipped + len(faults))


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
    try:
        shown = repr(value)
    except ValueError:  # Python makes no string of very long integers
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _looks_like_indicator(labels: list[Any]) -> bool:
    """Whether lists of labels look like flags of the classes rather than like the labels of each text."""
    rows = [row for row in labels if isinstance(row, (list, tuple))]
    if len(rows) < len(labels) or len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        return False
    return all(isinstance(flag, (bool, int)) and flag in (0, 1) for row in rows for flag in row)


def _check_pairs(texts: list[Any], data: TextData, options: ReadOptions) -> None:
    """Raises :class:`DataError` unless all texts are pairs, or none, as the options want it."""
    wanted = isinstance(texts[0], TextPair) if texts and options.pairs is None else options.pairs
    wrong = next((row for row, text in enumerate(texts) if isinstance(text, TextPair) is not wanted), None)
    if wrong is None or not (wanted or isinstance(texts[wrong], TextPair)):
        return
    if options.pairs is None:
        raise mixed_texts(data.where(wrong))
    kinds = ("pairs of texts", "a single text") if wanted else ("single texts", "a pair of texts")
    advice = "give (text, pair), or both columns" if wanted else "leave the second text out"
    raise DataError(f"{data.where(wrong)}: the classifier reads {kinds[0]}, and this is {kinds[1]}; {advice}.")


def _text(text: Any, options: ReadOptions, blank_is_missing: bool) -> str | TextPair:
    """A text as it is, or both texts of a pair; an empty string for a missing one where empty texts are no rows."""
    if isinstance(text, TextPair):
        first = _string(text.text, "first text", options, blank_is_missing)
        return TextPair(first, _string(text.pair, "second text", options, blank_is_missing))
    return _string(text, "text", options, blank_is_missing)


def _string(text: Any, what: str, options: ReadOptions, blank_is_missing: bool) -> str:
    if isinstance(text, str):
        if blank_is_missing and not text:
            raise _Invalid("missing text", f"the {what} is missing")
        _check_unicode(text, what)
        return text
    if not is_missing(text):
        raise _Invalid("text", f"the {what} is {shorten(text)}, not a string")
    if options.empty_texts != "keep" and options.missing == "error":
        return ""
    advice = f"; {_ADVICE}, and empty_texts='skip' (--empty-texts skip) those with an empty text"
    raise _Invalid("missing text", f"the {what} is {shorten(text)}{advice if options.labelled else ''}")


_ADVICE = "missing='skip' (--missing skip) leaves out rows whose text or label is missing"


def _check_unicode(value: str, what: str) -> None:
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        kind = what if what == "label" else "text"
        raise _Invalid(kind, f"the {what} holds a lone surrogate, which is not valid Unicode") from None


def _several(labels: Any, separator: str) -> tuple[Label, ...]:
    """Labels of one text, each once."""
    if isinstance(labels, str):
        labels = [name.strip() for name in labels.split(separator)] if labels.strip() else []
    elif is_missing(labels):
        labels = []
    elif not hasattr(labels, "__iter__") or isinstance(labels, (bytes, dict)):
        labels = [labels]
    distinct = {str(one): one for one in map(_label, labels)}
    return tuple(distinct.values())


def _label(label: Any) -> Label:
    """A label as a string, a boolean, an integer of 64 bits, or a float that is no whole number."""
    if isinstance(label, str) and label:
        _check_unicode(label, "label")
        return str.__str__(label)  # of a member of an enumeration, its value
    if isinstance(label, (bool, np.bool_)):
        return bool(label)
    try:
        number = _number(label)
        if number is not None:
            return number if isinstance(number, float) or number in INTEGERS else str(number)
    except (ValueError, OverflowError):  # too large for a string, or for a float
        raise _Invalid("label", f"the label is {shorten(label)}; a label has at most 4,300 digits") from None
    if isinstance(label, (list, tuple, set, np.ndarray)):
        raise _Invalid(
            "label",
            f"the label is {shorten(label)}; where texts have several labels, say multi_label=True (--multi-label)",
        )
    if is_missing(label) or isinstance(label, str):
        raise _Invalid("missing label", f"the label is {shorten(label)}; {_ADVICE}")
    raise _Invalid("label", f"the label is {shorten(label)}; a label is a non-empty string, a number or a boolean")


def _number(value: Any) -> int | float | None:
    """A finite number: an integer if it is whole, else a float; ``None`` for all else."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, Decimal) and value.is_finite():
        if value.adjusted() > 4300:
            raise OverflowError
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, numbers.Real) and not isinstance(value, Decimal) and math.isfinite(value):
        # The shortest string of a value of 32 bits is that of the number that was written.
        number = float(str(value)) if isinstance(value, np.floating) else float(value)
        return int(number) if number.is_integer() else number
    return None
