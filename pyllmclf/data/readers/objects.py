"""Objects in memory: a DataFrame, a ``datasets.Dataset``, or ``(texts, labels)``."""

from __future__ import annotations

from typing import Any

from ...errors import DataError, UsageError
from .columns import joined
from .notes import Notes
from .options import ReadOptions
from .text_data import TextData
from .values import checked_data, from_indicator, shorten


def read_object(data: Any, **options: Any) -> TextData:
    """Reads an object; ``options`` are the fields of :class:`ReadOptions`. Raises as :func:`read_data_object`."""
    return read_data_object(data, ReadOptions(**options))


def read_data_object(data: Any, options: ReadOptions) -> TextData:
    """Reads a DataFrame, a ``datasets.Dataset``, or ``(texts, labels)``; for unlabelled data, also any list of texts.

    Raises
    ------
    DataError
        If a text is not a string, a label neither string nor integer, or the counts differ.
    UsageError
        If the object is none of these.
    """
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        return _read_frame(data, options)
    if hasattr(data, "column_names") and hasattr(data, "features"):
        return _read_dataset(data, options)
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str):
        return _read_pair(*data, options)
    if not options.labelled and not isinstance(data, (str, bytes, dict)) and hasattr(data, "__iter__"):
        return checked_data(list(data), None, "texts", None, options)
    raise UsageError(
        f"can't read data of type {type(data).__name__}: give the name of a data set, the path of a file, "
        "a DataFrame, a datasets.Dataset, or (texts, labels)."
    )


def _read_frame(frame: Any, options: ReadOptions) -> TextData:
    notes = Notes("DataFrame")

    def values(place: int) -> list[Any]:
        return list(frame.iloc[:, place])

    columns = options.pick(
        [str(c) for c in frame.columns],
        "DataFrame",
        lambda: zip(*map(values, range(len(frame.columns))), strict=True),
        notes,
        header=True,
    )
    notes.say()
    labels = None if columns.label is None else values(columns.label)
    return checked_data(_joined([values(i) for i in columns.texts]), labels, "DataFrame", None, options)


def _joined(parts: list[list[Any]]) -> list[Any]:
    """Texts of which each has a part in each of these columns."""
    return parts[0] if len(parts) == 1 else [joined(row) for row in zip(*parts, strict=True)]


def _read_dataset(dataset: Any, options: ReadOptions) -> TextData:
    columns = options.pick(list(dataset.column_names), "Dataset", header=True)
    texts, labels = _joined([list(dataset[name]) for name in columns.text_names]), None
    if (label_name := columns.label_name) is not None:
        feature = dataset.features[label_name]
        feature = getattr(feature, "feature", feature)  # of a sequence of labels
        labels = [_class_name(label, feature, row) for row, label in enumerate(dataset[label_name])]
    return checked_data(texts, labels, "Dataset", None, options)


def _class_name(label: Any, feature: Any, row: int) -> Any:
    """Name of a ``datasets.ClassLabel``'s number, or names of several; labels of other features as they are."""
    names = getattr(feature, "names", None)
    if names is None or label is None:
        return label
    if isinstance(label, list):
        return [_class_name(one, feature, row) for one in label]
    if not isinstance(label, int) or not 0 <= label < len(names):
        raise DataError(
            f"Dataset, row {row}: the label is {shorten(label)}, which stands for none of {len(names)} names."
        )
    return names[label]


def _read_pair(texts: Any, labels: Any, options: ReadOptions) -> TextData:
    if not all(hasattr(values, "__iter__") for values in (texts, labels)):
        raise UsageError("(texts, labels) must hold two sequences.")
    texts = list(texts)
    labels = list(labels if options.label_separator is None else from_indicator(labels))
    if len(texts) != len(labels):
        raise DataError(f"(texts, labels) holds {len(texts)} texts but {len(labels)} labels.")
    return checked_data(texts, labels if options.labelled else None, "(texts, labels)", None, options)
