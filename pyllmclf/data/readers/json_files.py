"""JSON files: an array of objects, an object per line, or columns; the name decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .columns import Columns
from .data_file import DataFile, data_file_of
from .encoding import TextFile, open_text
from .json_rows import json_rows
from .notes import Notes
from .options import ReadOptions
from .text_data import Fault, Label, TextData
from .values import broken_row, checked_data


def read_json(data: Path | DataFile, options: ReadOptions) -> TextData:
    """Reads a file of JSON objects, whose keys are the columns; raises as :func:`.files.read_path`.

    Rows may also be arrays, whose columns are numbered, and for unlabelled data strings, each of which is a text.
    """
    path = data_file_of(data)
    notes = Notes(path.origin)
    text = open_text(path, options.encoding_errors, options.encoding, notes)
    texts: list[Any] = []
    labels: list[Label] = []
    weights: list[Any] = []
    lines: list[int] = []
    broken: list[Fault] = []
    kind: type | None = None
    columns: Columns | None = None

    for line, row in json_rows(text, options, path.origin, broken):
        where = f"{path}, row {len(texts)}" if line is None else f"{path}, line {line}"
        record = record_of(row)
        if isinstance(row, str) and not options.labelled and not options.chosen_names and kind in (None, str):
            texts.append(row)
        elif record is None or kind not in (None, type(row)):
            broken.append(broken_row(where, row_problem(row, kind), options))
            continue
        else:
            if columns is None:
                names = list(record)
                every = partial(record_values, text, options, names)
                columns = options.pick(names, where, every, notes, header=isinstance(row, dict))
            if options.missing != "error":  # a key that a row lacks is a missing value
                record = dict.fromkeys(columns.names) | record
            texts.append(columns.text_of(record, where))
            if columns.label is not None:
                labels.append(columns.label_of(record, where))
            if columns.weight is not None:
                weights.append(columns.weight_of(record, where))
        kind = type(row)
        if line is not None:
            lines.append(line)
    notes.say()
    has_weights = columns is not None and columns.weight is not None
    return checked_data(
        texts,
        labels if options.labelled else None,
        path.origin,
        lines or None,
        options,
        weights if has_weights else None,
        broken=broken,
    )


def record_values(text: TextFile, options: ReadOptions, names: list[str]) -> Iterator[list[Any]]:
    """Values of columns in all rows; ``None`` where a row has none."""
    for _, row in json_rows(text, options, text.file.origin):
        record = record_of(row) or {}
        yield [record.get(name) for name in names]


def row_problem(row: Any, kind: type | None) -> str:
    """What is wrong with a row, where those before are of one kind."""
    names: dict[type | None, str] = {str: "a string", list: "an array"}
    wanted = names.get(kind, "a JSON object")
    return f"a row must be {wanted}, not {type(row).__name__}"


def record_of(row: Any) -> dict[str, Any] | None:
    """A row with names of its values; ``None`` if it is none."""
    if isinstance(row, list):
        return {str(number): value for number, value in enumerate(row)}
    return row if isinstance(row, dict) else None
