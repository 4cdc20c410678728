"""Columns of Arrow as lists of Python's values, for Parquet, Arrow files and tables in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from .class_labels import class_names, named_labels
from .columns import Columns
from .encoding import decode_values
from .notes import Notes
from .options import ReadOptions
from .text_data import TextData
from .values import checked_data

if TYPE_CHECKING:
    import pyarrow as pa

# What pyarrow raises for values that Python can't represent, beside its own exceptions.
UNREPRESENTABLE = (ArithmeticError, LookupError, TypeError, ValueError)


def pick_columns(
    names: Sequence[str], batches: Callable[[], Iterable[pa.RecordBatch]], origin: str, options: ReadOptions
) -> Columns:
    """The columns to read, by all rows, of ``batches``, where the names don't tell; as :meth:`ReadOptions.pick`."""
    notes = Notes(origin)

    def rows() -> Iterator[tuple[Any, ...]]:
        for batch in batches():
            yield from zip(*map(_lenient_values, batch.columns), strict=True)

    columns = options.pick(names, origin, rows, notes, header=True)
    notes.say()
    return columns


def _lenient_values(column: pa.Array) -> list[Any]:
    """Values of a column that may be neither text nor label."""
    try:
        return column.to_pylist()
    except UNREPRESENTABLE:
        return [None] * len(column)


def needed(columns: Columns) -> list[str]:
    """Names of the columns that are read, each once."""
    return list(dict.fromkeys(columns.names[place] for place in columns.places))


def table_data(table: pa.Table, columns: Columns, origin: str, options: ReadOptions) -> TextData:
    """Texts, labels and weights of a table that holds at least the needed columns.

    Raises
    ------
    DataError
        If Python can't represent a value, or it is no text, label or weight.
    """

    def values(name: str) -> list[Any]:
        return column_values(table.column(name), name, origin, options.encoding_errors)

    texts = columns.texts_of({place: values(columns.names[place]) for place in columns.text_places})
    labels = None
    if (name := columns.label_name) is not None:
        labels = named_labels(values(name), _class_names(table.schema, name), origin)
    weights = None if columns.weight_name is None else values(columns.weight_name)
    return checked_data(texts, labels, origin, None, options, weights)


def column_values(
    column: pa.Array | pa.ChunkedArray, name: str, origin: str, encoding_errors: str, *, or_text: bool = False
) -> list[Any]:
    """Values of a column.

    Parameters
    ----------
    column : Array or ChunkedArray
    name, origin : str
        For messages.
    encoding_errors : {"strict", "replace"}
        Whether invalid UTF-8 in strings raises, or is replaced.
    or_text : bool
        Whether values that Python can't represent, such as times of the year 40,000, become text, as Arrow writes them.

    Raises
    ------
    DataError
        If Python can't represent a value.
    """
    import pyarrow as pa

    try:
        return column.to_pylist()
    except UnicodeDecodeError as error:
        is_string = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if encoding_errors == "strict" or not is_string:
            raise DataError(
                f"{origin}: the column {name!r} holds bytes that are not valid UTF-8 ({error}); "
                'say encoding_errors="replace" (--encoding-errors replace) to replace them.'
            ) from error
    except (*UNREPRESENTABLE, pa.ArrowException) as error:
        if or_text:
            with suppress(pa.ArrowException):
                return column.cast(pa.string()).to_pylist()
        raise DataError(
            f"{origin}: the column {name!r} holds {column.type} that Python can't represent ({error}); "
            "choose another column, or write it as text."
        ) from error
    return decode_values(column.cast(pa.large_binary()).to_pylist(), origin)


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Names of a ``datasets.ClassLabel``, which ``datasets`` writes into the schema beside the numbers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return class_names(features[column])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
