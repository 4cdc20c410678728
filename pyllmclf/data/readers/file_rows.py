"""Rows of regular files with all their columns, read as :mod:`.delimited` and :mod:`.json_files` read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .columns import Columns
from .data_file import open_data_file
from .delimited import _Table, _unlimited_field_size
from .dialect import ENDINGS, sniff, without_quoting
from .encoding import open_text
from .json_files import _record
from .json_rows import json_rows
from .notes import Notes
from .options import ReadOptions
from .row_stream import RowStream, _batches, _distinct, _Row  # _batches with lines=None, live=False


def delimited_rows(path: Path, own: str | None, options: ReadOptions) -> RowStream:
    """Rows of a delimited file, whose encoding, delimiter and quoting are found; ``own`` replaces its ending's."""
    file = open_data_file(path)
    notes = Notes(file.origin)
    with _unlimited_field_size():
        text = open_text(file, options.encoding_errors, options.encoding, notes)
        own = own or ENDINGS.get(file.ending)
        dialect = sniff(text, own, options.delimiter_character, options.header, options.chosen_names, notes)
        dialect = without_quoting(text, dialect, options.header, options.label_of, notes)
        table = _Table(text, dialect, options, notes)
    notes.say()
    names = _distinct(list(table.columns.names))

    def rows() -> Iterator[_Row]:
        with _unlimited_field_size():
            for line, row in table.rows():
                padded = [*row, *[""] * (len(names) - len(row))]
                yield line, table.columns.text(padded), dict(zip(names, padded, strict=False))

    return RowStream(_batches(rows(), None, False, file.origin, options), names)


def text_rows(path: Path, options: ReadOptions) -> RowStream:
    """Lines of a text file, whose encoding is found, each a text."""
    file = open_data_file(path)
    notes = Notes(file.origin)
    text = open_text(file, options.encoding_errors, options.encoding, notes)
    notes.say()

    def rows() -> Iterator[_Row]:
        with text.open(newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.removesuffix("\n").removesuffix("\r"), None

    return RowStream(_batches(rows(), None, False, file.origin, options))


def json_file_rows(path: Path, options: ReadOptions) -> RowStream:
    """Rows of a JSON file of any shape."""
    file = open_data_file(path)
    notes = Notes(file.origin)
    text = open_text(file, options.encoding_errors, options.encoding, notes)
    stream = RowStream(is_json=True)

    def rows() -> Iterator[_Row]:
        columns: Columns | None = None
        for number, (line, row) in enumerate(json_rows(text, options, file.origin)):
            where = f"{file}, row {number}" if line is None else f"{file}, line {line}"
            record: dict[str, Any] | None = _record(row)
            if record is None:
                yield line or number + 1, row, None  # a string is a text; anything else is refused as one
                continue
            if columns is None:
                stream.columns = list(record)
                columns = options.pick(stream.columns, where, None, notes, header=isinstance(row, dict))
                notes.say()
            yield line or number + 1, columns.text_of(record, where), record

    stream.batches = _batches(rows(), None, False, file.origin, options)
    return stream
