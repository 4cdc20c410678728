"""JSONL files: one JSON object per line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import DataError
from .encoding import read_text
from .options import ReadOptions
from .text_data import Fault, TextData
from .values import broken_row, checked_data


def read_jsonl(path: Path, options: ReadOptions) -> TextData:
    """Reads a file of JSON objects, whose keys are the columns; raises as :func:`.files.read_path`."""
    content = read_text(path, options.encoding_errors)
    texts: list[Any] = []
    labels: list[Any] = []
    lines: list[int] = []
    weights: list[Any] = []
    broken: list[Fault] = []
    names: tuple[str | None, ...] | None = None  # columns of texts, labels and weights
    # Not splitlines(): JSON strings may hold U+2028 and other line separators of Unicode.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            broken.append(broken_row(where, f"not valid JSON ({error})", options))
            continue
        if not isinstance(row, dict):
            problem = f"a line must be a JSON object, not {type(row).__name__}"
            broken.append(broken_row(where, problem, options))
            continue
        if names is None:
            names = options.columns(list(row), where)
            names = (*names, options.weight_column(list(row), names, where))
        absent = [name for name in names if name is not None and name not in row]
        if absent and options.missing == "error":
            raise DataError(f"{where}: the object has no {absent[0]!r}.")
        texts.append(row.get(names[0]))
        lines.append(number)
        if names[1] is not None:
            labels.append(row.get(names[1]))
        if names[2] is not None:
            weights.append(row.get(names[2]))
    labels_read = labels if options.labelled else None
    weights_read = weights if names is not None and names[2] is not None else None
    return checked_data(texts, labels_read, str(path), lines, options, weights_read, broken=broken)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ``ValueError`` for a repeated name, whose first value would be lost."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a name appears more than once")
    return row
