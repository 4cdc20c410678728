"""Objects in memory: a DataFrame, a ``datasets.Dataset``, or ``(texts, labels)``."""

from __future__ import annotations

from typing import Any

from ...errors import DataError, UsageError
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
    by_name = dict(zip([str(c) for c in frame.columns], frame.columns, strict=True))
    text_name, label_name = options.columns([str(c) for c in frame.columns], "DataFrame")
    texts = list(frame[by_name[text_name]])
    labels = None if label_name is None else list(frame[by_name[label_name]])
    weight_name = options.weight_column(list(by_name), (text_name, label_name), "DataFrame")
    weights = None if weight_name is None else list(frame[by_name[weight_name]])
    return checked_data(texts, labels, "DataFrame", None, options, weights)


def _read_dataset(dataset: Any, options: ReadOptions) -> TextData:
    text_name, label_name = options.columns(list(dataset.column_names), "Dataset")
    texts, labels = list(dataset[text_name]), None
    if label_name is not None:
        feature = dataset.features[label_name]
        feature = getattr(feature, "feature", feature)  # of a sequence of labels
        labels = [_class_name(label, feature, row) for row, label in enumerate(dataset[label_name])]
    weight_name = options.weight_column(list(dataset.column_names), (text_name, label_name), "Dataset")
    weights = None if weight_name is None else list(dataset[weight_name])
    return checked_data(texts, labels, "Dataset", None, options, weights)


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
