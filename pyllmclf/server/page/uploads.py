"""Texts, labels and other columns of a file that a client sends; its bytes stay in memory and reach no disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...data.json_text import is_unicode
from ...data.labels import class_finder
from ...data.readers import ReadOptions
from ...data.readers.columns import Columns
from ...data.readers.data_file import data_file_in_memory
from ...data.readers.file_rows import file_rows
from ...data.readers.missing import is_missing
from ...data.readers.usual_names import usual_label
from ...errors import DataError, ResourceError

# Larger integers are no numbers of JavaScript.
_LARGEST = 2**53 - 1
# Most rows of a file; each takes some hundred bytes of memory, also where it takes few in the file.
MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class Upload:
    """The rows of a file.

    Attributes
    ----------
    texts : list of str
    columns : list of str
        Names of all columns; empty for lines of text.
    records : list of dict
        All columns of each row; empty for lines of text.
    text_columns : list of str
        Columns that the texts consist of.
    label_column : str or None
        Column of the labels: the one that was named, or one with a usual name.
    label_named : bool
        Whether the label column was named.
    """

    texts: list[str]
    columns: list[str]
    records: list[dict[str, Any]]
    text_columns: list[str]
    label_column: str | None
    label_named: bool

    def cells(self, row: int) -> list[Any]:
        """Values of the columns in a row as JSON and JavaScript have them; ``None`` for the one text column."""
        if not self.columns:
            return []
        record = self.records[row]
        alone = self.text_columns[0] if len(self.text_columns) == 1 else None
        return [None if name == alone else _plain(record.get(name)) for name in self.columns]


def read_upload(content: bytes, name: str, text_column: str | None, label_column: str | None, most: int) -> Upload:
    """Reads a file as the command line reads it.

    Parameters
    ----------
    content : bytes
    name : str
        Its ending tells the format.
    text_column, label_column : str or None
        By default those with usual names; there may be no label column then.
    most : int
        Most bytes of the unpacked content, and most characters of all texts.

    Raises
    ------
    DataError
        If it can't be read, lacks a column, or holds no text.
    ResourceError
        If it doesn't fit into memory, or is larger than ``most`` or :data:`MOST_ROWS`.
    """
    if not content:
        raise DataError(f"{name}: the file is empty.")
    picked: list[Columns] = []
    options = ReadOptions(
        text_column=text_column,
        label_column=label_column,
        labelled=label_column is not None,
        pairs=False,
        on_pick=picked.append,
    )
    stream = file_rows(data_file_in_memory(content, name, most), None, options)
    texts, records = list[str](), list[dict[str, Any]]()  # single texts alone
    characters = 0
    for rows in stream.batches:
        texts += map(str, rows.texts)
        records += rows.records or []
        # Few bytes of a Parquet file may be many rows.
        characters += sum(map(len, texts[-len(rows.texts) :]))
        if len(texts) > MOST_ROWS or characters > most:
            raise ResourceError(f"{name}: has more than {MOST_ROWS:,} rows or {most:,} characters; send a part of it.")
    if not texts:
        raise DataError(f"{name}: the file holds no texts.")
    if not picked or stream.columns is None:
        if text_column is not None or label_column is not None:
            raise DataError(f"{name}: its rows are texts, without columns to choose from; name no column.")
        return Upload(texts, [], [], [], None, False)
    columns = picked[-1]
    label = columns.label_name
    if label is None:
        others = [each for each in stream.columns if each not in columns.text_names]
        place = usual_label(others)
        label = None if place is None else others[place]
    return Upload(texts, stream.columns, records, list(columns.text_names), label, label_column is not None)


@dataclass(frozen=True)
class GivenLabels:
    """The labels that a file has, as indices of classes.

    Attributes
    ----------
    rows : list of (list of int, or None)
        ``None`` where the label is missing or is none of the classes.
    missing, unknown : int
        Number of rows without a label, and with one that is none of the classes.
    """

    rows: list[list[int] | None]
    missing: int
    unknown: int


def given_labels(upload: Upload, classes: Sequence[str], separator: str | None, model: str) -> GivenLabels | None:
    """The labels of a file; ``None`` if it has no label column, or one with a usual name that holds something else.

    Parameters
    ----------
    upload : Upload
    classes : sequence of str
    separator : str or None
        Where texts may have several labels, what stands between them.
    model : str
        Name of the classifier, for messages.

    Raises
    ------
    DataError
        If the column was named, and no label in it is one of the classes.
    """
    if upload.label_column is None:
        return None
    values = [record.get(upload.label_column) for record in upload.records]
    find = class_finder(classes)
    rows, missing = list[list[int] | None](), 0
    for value in values:
        labels = _labels(value, separator)
        indices = [find(label) for label in labels or ()]
        missing += labels is None
        rows.append(None if labels is None or None in indices else [i for i in indices if i is not None])
    unknown = rows.count(None) - missing
    known = len(rows) - missing - unknown
    if upload.label_named and not known:
        raise DataError(f"no label of the column {upload.label_column!r} is a class of {model}; name another column.")
    # A column that is only named like labels may hold something else.
    return GivenLabels(rows, missing, unknown) if upload.label_named or known > unknown else None


def _labels(value: Any, separator: str | None) -> list[Any] | None:
    """The labels of a cell; ``None`` if it has none where each text has one."""
    if separator is not None:
        if isinstance(value, (list, tuple)):
            return list(value)
        parts = value.split(separator) if isinstance(value, str) else [] if is_missing(value) else [value]
        return [part.strip() if isinstance(part, str) else part for part in parts if part != "" and part is not None]
    return None if is_missing(value) or value == "" else [value]


def _plain(value: Any) -> Any:
    """A value as text, a number, a boolean or ``None``."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= _LARGEST:
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, dict)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = str(value)
    return text if is_unicode(text) else text.encode("utf-8", "backslashreplace").decode()
