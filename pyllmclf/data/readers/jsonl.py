"""JSONL files: one JSON object per line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import DataError
from .columns import Columns
from .data_file import DataFile, data_file_of
from .encoding import open_text
from .options import ReadOptions
from .text_data import Label, TextData
from .values import checked_data


def read_jsonl(data: Path | DataFile, options: ReadOptions) -> TextData:
    """Reads a file of JSON objects, whose keys are the columns; raises as :func:`.files.read_path`."""
    path = data_file_of(data)
    text = open_text(path, options.encoding_errors, options.encoding)
    texts: list[str] = []
    labels: list[Label] = []
    lines: list[int] = []
    columns: Columns | None = None
    # Line ends as in the file, and no others: JSON strings may hold U+2028 and other line separators of Unicode.
    with text.open(newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: not valid JSON ({error}).") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: a line must be a JSON object, not {type(row).__name__}.")
            if columns is None:
                columns = options.pick(list(row), f"{path}, line {number}", header=True)
            lines.append(number)
            texts.append(columns.text_of(row, f"{path}, line {number}"))
            if columns.label_name is not None:
                labels.append(columns.label_of(row, f"{path}, line {number}"))
    return checked_data(texts, labels if options.labelled else None, str(path), lines, options)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ``ValueError`` for a repeated name, whose first value would be lost."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a name appears more than once")
    return row
