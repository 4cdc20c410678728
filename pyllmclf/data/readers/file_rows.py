"""Rows of regular files with all their columns, read as the readers of labelled texts read them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DataError
from .arrow_rows import arrow_rows, parquet_rows
from .columns import Columns
from .data_file import DataFile, data_file_of
from .delimited import _Table, _unlimited_field_size
from .dialect import ENDINGS, sniff, without_quoting
from .encoding import open_text
from .files import ARROW, DELIMITED, JSON, PARQUET, SPREADSHEET, format_of
from .json_files import record_of, record_values, row_problem
from .json_rows import json_rows
from .notes import Notes
from .options import ReadOptions
from .row_batches import Row, RowStream, batches_of, distinct_names
from .spreadsheet import open_sheet, text_of

# Formats that a user may name for a file, with the delimiter that they replace its ending's by.
_NAMED = {
    "csv": (DELIMITED, ","),
    "tsv": (DELIMITED, "\t"),
    "jsonl": (JSON, None),
    "parquet": (PARQUET, None),
    "txt": (None, None),
}


def file_rows(path: Path | DataFile, kind: str | None, options: ReadOptions) -> RowStream:
    """Rows of a file, whose packing, encoding, delimiter and quoting are found as in training.

    Parameters
    ----------
    path : Path or DataFile
    kind : {"txt", "csv", "tsv", "jsonl", "parquet"}, optional
        Its format; ``None`` is what its name and its first bytes say. Lines of text are a text each.
    options : ReadOptions

    Raises
    ------
    DataError, ResourceError
        As :func:`.files.read_path`, here or from the batches.
    """
    file = data_file_of(path)
    found, delimiter = (format_of(file), None) if kind is None else _NAMED[kind]
    if found is DELIMITED:
        return _delimited_rows(file, delimiter, options)
    if found is JSON:
        return _json_rows(file, options)
    if found is PARQUET:
        return parquet_rows(file.open(), file.origin, options)
    if found is ARROW:
        return arrow_rows(file, options)
    return _sheet_rows(file, options) if found is SPREADSHEET else _text_rows(file, options)


def _delimited_rows(file: DataFile, own: str | None, options: ReadOptions) -> RowStream:
    notes = Notes(file.origin)
    with _unlimited_field_size():
        text = open_text(file, options.encoding_errors, options.encoding, notes)
        own = own or ENDINGS.get(file.ending)
        dialect = sniff(text, own, options.delimiter_character, options.header, options.chosen_names, notes)
        dialect = without_quoting(text, dialect, options.header, options.label_of, notes)
        table = _Table(text, dialect, options, notes)
    notes.say()
    names = distinct_names(list(table.columns.names))

    def rows() -> Iterator[Row]:
        with _unlimited_field_size():
            for line, row in table.rows():
                padded = [*row, *[""] * (len(names) - len(row))]
                yield line, table.columns.text(padded), dict(zip(names, padded, strict=False))

    return RowStream(batches_of(rows(), file.origin, options), names)


def _text_rows(file: DataFile, options: ReadOptions) -> RowStream:
    notes = Notes(file.origin)
    text = open_text(file, options.encoding_errors, options.encoding, notes)
    notes.say()

    def rows() -> Iterator[Row]:
        with text.open(newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.removesuffix("\n").removesuffix("\r"), None

    return RowStream(batches_of(rows(), file.origin, options))


def _json_rows(file: DataFile, options: ReadOptions) -> RowStream:
    notes = Notes(file.origin)
    text = open_text(file, options.encoding_errors, options.encoding, notes)
    stream = RowStream(is_json=True)

    def rows() -> Iterator[Row]:
        columns: Columns | None = None
        kind: type | None = None
        for number, (line, row) in enumerate(json_rows(text, options, file.origin)):
            where = f"{file}, row {number}" if line is None else f"{file}, line {line}"
            record: dict[str, Any] | None = record_of(row)
            is_text = isinstance(row, str) and options.text_column is None and options.text_pair_column is None
            if (record is None and not is_text) or kind not in (None, type(row)):
                raise DataError(f"{where}: {row_problem(row, kind)}.")
            kind = type(row)
            if record is None:
                yield line or number + 1, row, None
                continue
            if columns is None:
                stream.columns = list(record)
                every = partial(record_values, text, options, stream.columns)
                columns = options.pick(stream.columns, where, every, notes, header=isinstance(row, dict))
                notes.say()
            yield line or number + 1, columns.text_of(record, where), record

    stream.batches = batches_of(rows(), file.origin, options)
    return stream


def _sheet_rows(file: DataFile, options: ReadOptions) -> RowStream:
    stream = RowStream(is_json=True)  # cells of a column may have several types

    def rows() -> Iterator[Row]:
        with open_sheet(file, options) as (_, columns, cells):
            names = stream.columns = distinct_names(list(columns.names))
            for line, row in cells:
                yield line, text_of(columns, row), dict(zip(names, row, strict=False))

    stream.batches = batches_of(rows(), file.origin, options)
    return stream
