"""From whatever a user names as data to :class:`TextData`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from .named import PARTITIONS, Parts, is_named, load_named
from .readers import FILE_TYPES, TextData, check_reading, read_file, read_object, without_empty


def load_dataset(name: str, split: str | None = None) -> Parts:
    """Loads a named data set.

    Parameters
    ----------
    name : str
        ``"sms_spam"``, ``"imdb"`` or ``"sample"``, optionally with a partition: ``"sms_spam:full"``.
    split : str, optional
        The partition: ``"balanced"`` (default) or ``"full"`` for ``sms_spam``, ``"official"`` (default) or
        ``"published"`` for ``imdb``.

    Returns
    -------
    dict of str to TextData
        The parts that the partition has.
    """
    return load_named(name, split)


def has_columns(data: Any) -> bool:
    """Whether column names mean anything for this kind of data."""
    return not is_named(data) and not isinstance(data, (tuple, list))


def has_encoding(data: Any) -> bool:
    """Whether this kind of data is bytes that have an encoding."""
    return not is_named(data) and isinstance(data, (str, Path))


def read_data(
    data: Any,
    *,
    split: str | None = None,
    default_split: str = "all",
    text_column: str | None = None,
    label_column: str | None = None,
    labelled: bool = True,
    label_separator: str | None = None,
    empty_texts: str = "keep",
    encoding_errors: str = "strict",
) -> TextData:
    """Reads any supported kind of data.

    Parameters
    ----------
    data
        Name of a data set, path of a file, DataFrame, ``datasets.Dataset`` or ``(texts, labels)``.
    split : str, optional
        Part of a named data set: ``"train"``, ``"validation"``, ``"test"`` or ``"all"``.
    default_split : str
        The part that is read where ``split`` is not given and the data set has it.
    text_column, label_column : str, optional
    labelled : bool
        Whether labels are needed.
    label_separator : str, optional
        Texts may have several labels, or none: lists, or strings in which this stands between them.
    empty_texts : {"keep", "skip", "error"}
        What becomes of texts that are empty or white space.
    encoding_errors : {"strict", "replace"}
        What becomes of bytes in files that are not UTF-8.

    Raises
    ------
    DataError, UsageError
    """
    check_reading(empty_texts, encoding_errors)
    if not has_columns(data) and (text_column is not None or label_column is not None):
        raise UsageError(f"{_kind(data)} has no columns to choose from; leave text_column and label_column out.")
    columns: dict[str, Any] = {
        "text_column": text_column,
        "label_column": label_column,
        "labelled": labelled,
        "label_separator": label_separator,
        "empty_texts": empty_texts,
    }
    if not has_encoding(data) and encoding_errors != "strict":
        raise UsageError(f"{_kind(data)} has no encoding; leave encoding_errors out.")
    if is_named(data):
        if label_separator is not None:
            raise UsageError(f"the texts of {data} have one label each; leave multi_label out.")
        parts = load_named(data)
        wanted = split or (default_split if default_split in parts else "all")
        if wanted == "all" and "all" not in parts:
            return without_empty(_joined(list(parts.values()), data), empty_texts)
        if wanted not in parts:
            raise UsageError(f"{data} has no split {wanted!r}; it has {', '.join(parts)}.")
        return without_empty(parts[wanted], empty_texts)
    if split is not None:
        raise UsageError(f"a split ({split!r}) can be chosen of a named data set only, not of {_kind(data)}.")
    if isinstance(data, (str, Path)):
        if not _exists(data) and not str(data).lower().endswith((*FILE_TYPES, ".gz")):
            raise DataError(
                f"{str(data)[:80]}: neither a file nor the name of a data set; "
                f"the named ones are {', '.join(PARTITIONS)}."
            )
        return read_file(data, encoding_errors=encoding_errors, **columns)
    return read_object(data, **columns)


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it: a text, perhaps
        return False


def _kind(data: Any) -> str:
    return str(data) if isinstance(data, (str, Path)) else f"data of type {type(data).__name__}"


def _joined(parts: list[TextData], origin: str) -> TextData:
    labels = [label for part in parts for label in (part.labels or [])]
    return TextData([text for part in parts for text in part.texts], labels, f"{origin} (all)")
