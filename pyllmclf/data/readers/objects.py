"""Objects in memory: data frames, tables and data sets of other libraries, rows, columns, or ``(texts, labels)``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...errors import DataError, UsageError
from ...text_pair import TextPair
from .arrow_columns import UNREPRESENTABLE, needed, pick_columns, table_data
from .class_labels import class_names, named_labels
from .columns import Columns
from .notes import Notes
from .options import ReadOptions
from .text_data import TextData
from .values import checked_data, from_indicator


def read_object(data: Any, **options: Any) -> TextData:
    """Reads an object; ``options`` are the fields of :class:`ReadOptions`. Raises as :func:`read_data_object`."""
    return read_data_object(data, ReadOptions(**options))


def read_data_object(data: Any, options: ReadOptions) -> TextData:
    """Reads an object.

    Parameters
    ----------
    data
        A DataFrame of pandas or polars; a Table, RecordBatch or data set of pyarrow, or any object with Arrow's stream
        interface; a ``datasets.Dataset``; a dictionary of columns; a list of dictionaries, of ``(text, label)`` or of
        ``(text, pair, label)``; ``(texts, labels)``, whose texts may be pairs; ``(texts, pairs, labels)``. Unlabelled
        data may also be a list, an array or a Series of texts or of ``(text, pair)``.
    options : ReadOptions

    Raises
    ------
    DataError
        If a text is not a string, a label neither string nor integer, or the counts differ.
    UsageError
        If the object is none of these.
    """
    read = _reader(data)
    if read is not None:
        return read(data, options)
    if not options.labelled and not isinstance(data, (str, bytes)) and hasattr(data, "__iter__"):
        return _read_texts(data, options)
    if hasattr(data, "__arrow_c_stream__") and not _is_series(data):
        return _read_arrow(data, options)
    if _is_series(data):
        raise UsageError(f"a {type(data).__name__} holds texts or labels alone; give a DataFrame, or (texts, labels).")
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        return _read_rows(data, options)
    raise _unknown(data)


def has_columns(data: Any) -> bool:
    """Whether an object has columns with names."""
    if isinstance(data, list):
        return bool(data) and isinstance(data[0], Mapping)
    return not isinstance(data, tuple)


def _reader(data: Any) -> Callable[[Any, ReadOptions], TextData] | None:
    """The reader of objects whose kind is plain from their attributes."""
    if hasattr(data, "collect_schema"):
        return _read_polars
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        return _read_frame
    if hasattr(data, "column_names") and hasattr(data, "features"):
        return _read_dataset
    if type(data).__module__.startswith("pyarrow") and hasattr(data, "schema"):
        return _read_arrow
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], (str, Mapping)):
        return _read_two
    if isinstance(data, tuple) and len(data) == 3 and not isinstance(data[0], (str, Mapping)) and not _are_rows(data):
        return _read_three
    return _read_columns if isinstance(data, Mapping) else None


def _unknown(data: Any) -> UsageError:
    return UsageError(
        f"can't read data of type {type(data).__name__}: give the name of a data set, the path of a file or folder, "
        "a DataFrame, a pyarrow.Table, a datasets.Dataset, a list of dictionaries, or (texts, labels)."
    )


def _are_rows(data: tuple[Any, ...]) -> bool:
    """Whether three tuples are rows of text and label, or of text, pair and label, rather than the columns of those."""
    if not all(isinstance(row, tuple) for row in data):
        return False
    sizes = {len(row) for row in data}
    return sizes == {2} or (sizes == {3} and all(isinstance(text, str) for row in data for text in row[:2]))


def _is_series(data: Any) -> bool:
    """Whether an object is one column: a Series, or an array of Arrow."""
    return type(data).__name__ == "Series" or hasattr(data, "to_pylist")


def _values(column: Any, name: str, origin: str) -> list[Any]:
    """Values of a column as Python's."""
    try:
        if hasattr(column, "to_pylist"):
            return column.to_pylist()
        return list(column)
    except UNREPRESENTABLE as error:
        raise DataError(f"{origin}: the column {name!r} holds values that Python can't represent ({error}).") from error


def _read_frame(frame: Any, options: ReadOptions) -> TextData:
    names = [str(column) for column in frame.columns]

    def values(place: int) -> list[Any]:
        return _values(frame.iloc[:, place], names[place], "DataFrame")

    columns = _pick(names, values, "DataFrame", options)
    labels = None if columns.label is None else values(columns.label)
    weights = None if columns.weight is None else values(columns.weight)
    texts = columns.texts_of({i: values(i) for i in columns.text_places})
    return checked_data(texts, labels, "DataFrame", None, options, weights)


def _pick(names: list[str], values: Callable[[int], list[Any]], origin: str, options: ReadOptions) -> Columns:
    """The columns to read; ``values`` gives those of a column where the names don't tell."""
    notes = Notes(origin)

    def rows() -> Iterator[tuple[Any, ...]]:
        return zip(*map(values, range(len(names))), strict=True)

    columns = options.pick(names, origin, rows, notes, header=True)
    notes.say()
    return columns


def _read_polars(frame: Any, options: ReadOptions) -> TextData:
    """Reads polars' DataFrame or LazyFrame, of which only the needed columns are computed."""
    origin = type(frame).__name__

    def table(names: Sequence[str]) -> Any:
        chosen = frame.select(names)
        # By way of Arrow: a value that Python lacks makes polars panic, with an exception that isn't an Exception.
        return (chosen.collect() if hasattr(chosen, "collect") else chosen).to_arrow()

    try:
        names = frame.collect_schema().names()
        columns = pick_columns(names, lambda: table(names).to_batches(), origin, options)
        chosen = table(needed(columns))
    except (ArithmeticError, LookupError, OSError, _polars_error()) as error:
        raise DataError(f"{origin}: can't be computed ({error}).") from error
    return table_data(chosen, columns, origin, options)


def _polars_error() -> type[Exception]:
    from polars.exceptions import PolarsError

    return PolarsError


def _read_arrow(data: Any, options: ReadOptions) -> TextData:
    """Reads a Table, a RecordBatch, a data set or a reader of pyarrow, or another library's stream of Arrow data."""
    import pyarrow as pa

    origin = type(data).__name__
    try:
        if hasattr(data, "to_table"):  # pyarrow.dataset: only the needed columns are read
            columns = pick_columns(data.schema.names, data.to_batches, origin, options)
            return table_data(data.to_table(needed(columns)), columns, origin, options)
        if isinstance(data, pa.RecordBatchReader):
            table = data.read_all()
        elif isinstance(data, pa.RecordBatch):
            table = pa.Table.from_batches([data])
        else:
            table = data if isinstance(data, pa.Table) else pa.table(data)
    except (pa.ArrowException, OSError, TypeError) as error:
        raise DataError(f"{origin}: can't be read as a table of Arrow ({error}).") from error
    return table_data(table, pick_columns(table.column_names, table.to_batches, origin, options), origin, options)


def _read_dataset(dataset: Any, options: ReadOptions) -> TextData:
    """Reads a ``datasets.Dataset``, or an ``IterableDataset`` to its end."""
    # As Python's values, whatever format the user chose for reading.
    dataset = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
    if not hasattr(dataset, "__getitem__"):
        return _read_rows(dataset, options, dataset.features)
    names = list(dataset.column_names)
    columns = _pick(names, lambda place: _values(dataset[names[place]], names[place], "Dataset"), "Dataset", options)
    parts = {place: _values(dataset[names[place]], names[place], "Dataset") for place in columns.text_places}
    texts, labels = columns.texts_of(parts), None
    if (label_name := columns.label_name) is not None:
        labels = _values(dataset[label_name], label_name, "Dataset")
        labels = named_labels(labels, class_names(dataset.features[label_name]), "Dataset")
    weight_name = columns.weight_name
    weights = None if weight_name is None else _values(dataset[weight_name], weight_name, "Dataset")
    return checked_data(texts, labels, "Dataset", None, options, weights)


def _read_columns(columns: Mapping[Any, Any], options: ReadOptions) -> TextData:
    """Reads a dictionary of columns."""
    origin = "dictionary"
    names, held = [str(name) for name in columns], list(columns.values())

    def values(place: int) -> list[Any]:
        if isinstance(held[place], (str, bytes)) or not hasattr(held[place], "__iter__"):
            raise UsageError(f"{origin}: the column {names[place]!r} must be a list of values, one for each text.")
        return _values(held[place], names[place], origin)

    chosen = _pick(names, values, origin, options)
    parts = {place: values(place) for place in chosen.text_places}
    if len(set(map(len, parts.values()))) > 1:
        raise DataError(f"{origin}: the columns of texts have different numbers of values.")
    weights = None if chosen.weight is None else values(chosen.weight)
    texts = chosen.texts_of(parts)
    if chosen.label is None:
        return checked_data(texts, None, origin, None, options, weights)
    if options.label_separator is not None:
        held[chosen.label] = from_indicator(held[chosen.label])
    labels = values(chosen.label)
    if len(texts) != len(labels):
        raise DataError(
            f"{origin}: {chosen.text_names[0]!r} holds {len(texts)} texts but {chosen.label_name!r} "
            f"{len(labels)} labels."
        )
    return checked_data(texts, labels, origin, None, options, weights)


def _read_rows(rows: Iterable[Any], options: ReadOptions, features: Mapping[str, Any] | None = None) -> TextData:
    """Reads dictionaries, (text, label) or (text, pair, label); ``features`` are those of ``datasets``."""
    origin, kept = type(rows).__name__, list(rows)
    texts: list[Any] = []
    labels: list[Any] = []
    weights: list[Any] = []
    columns, notes = None, Notes(origin)
    if kept and isinstance(kept[0], Mapping):
        names = [str(name) for name in kept[0]]
        columns = _pick(
            names, lambda place: [row.get(names[place]) for row in kept if isinstance(row, Mapping)], origin, options
        )
    for number, row in enumerate(kept):
        where = f"{origin}, row {number}"
        if columns is not None and isinstance(row, Mapping):
            texts.append(columns.text_of(row, where))
            labels.append(None if columns.label is None else columns.label_of(row, where))
            weights.append(None if columns.weight is None else columns.weight_of(row, where))
        elif isinstance(kept[0], tuple) and isinstance(row, tuple) and len(row) in (2, 3) and isinstance(row[0], str):
            texts.append(row[0] if len(row) == 2 else _pair_of(row, where, options, notes))
            labels.append(row[-1])
        elif number:
            raise UsageError(
                f"{where} is of type {type(row).__name__}; all rows must be dictionaries, (text, label), or "
                "(text, pair, label)."
            )
        else:
            raise _unknown(rows)
    notes.say()
    if columns is not None and columns.label_name is not None and features:
        labels = named_labels(labels, class_names(features.get(columns.label_name)), origin)
    has_weights = columns is not None and columns.weight is not None
    return checked_data(
        texts, labels if options.labelled else None, origin, None, options, weights if has_weights else None
    )


def _pair_of(row: tuple[Any, Any, Any], where: str, options: ReadOptions, notes: Notes) -> TextPair:
    """The pair of a row (text, pair, label).

    Raises
    ------
    UsageError
        If the row may as well be a text with two labels.
    """
    if options.pairs is not True:
        if options.label_separator is not None and all(isinstance(value, str) for value in row):
            raise UsageError(
                f"{where} holds three strings, which don't tell labels from a second text; give (text, [label, ...]), "
                "or (text, pair, [label, ...])."
            )
        notes.add("rows of three as (text, pair, label)")
    return TextPair(row[0], row[1])


def _read_texts(texts: Iterable[Any], options: ReadOptions) -> TextData:
    """Reads an iterable of texts or of pairs, or of dictionaries that hold them."""
    values = _values(texts, "text", "texts")
    if values and isinstance(values[0], Mapping):
        return _read_rows(values, options)
    return checked_data(list(map(_as_pair, values)), None, "texts", None, options)


def _as_pair(value: Any) -> Any:
    """A :class:`TextPair` of a tuple, a list or an array of two; anything else as it is."""
    if hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1:
        value = value.tolist()
    return TextPair(*value) if isinstance(value, (tuple, list)) and len(value) == 2 else value


def _read_three(data: tuple[Any, Any, Any], options: ReadOptions) -> TextData:
    origin, (texts, pairs, labels) = "(texts, pairs, labels)", data
    if not all(hasattr(values, "__iter__") for values in data):
        raise UsageError("(texts, pairs, labels) must hold three sequences.")
    texts, pairs = _values(texts, "texts", origin), _values(pairs, "pairs", origin)
    labels = _values(labels if options.label_separator is None else from_indicator(labels), "labels", origin)
    if not len(texts) == len(pairs) == len(labels):
        raise DataError(f"{origin} holds {len(texts)} texts, {len(pairs)} pairs and {len(labels)} labels.")
    labelled = labels if options.labelled else None
    return checked_data(list(map(TextPair, texts, pairs)), labelled, origin, None, options)


def _read_two(data: tuple[Any, Any], options: ReadOptions) -> TextData:
    origin, (texts, labels) = "(texts, labels)", data
    if not all(hasattr(values, "__iter__") for values in (texts, labels)):
        raise UsageError("(texts, labels) must hold two sequences.")
    texts = list(map(_as_pair, _values(texts, "texts", origin)))
    labels = _values(labels if options.label_separator is None else from_indicator(labels), "labels", origin)
    if len(texts) != len(labels):
        raise DataError(f"(texts, labels) holds {len(texts)} texts but {len(labels)} labels.")
    return checked_data(texts, labels if options.labelled else None, origin, None, options)
