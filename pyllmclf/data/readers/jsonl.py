"""JSONL files: one JSON object per line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import DataError
from .encoding import read_text
from .options import ReadOptions
from .text_data import Label, TextData
from .values import checked_data


def read_jsonl(path: Path, options: ReadOptions) -> TextData:
    """Reads a file of JSON objects, whose keys are the columns; raises as :func:`.files.read_path`."""
    content = read_text(path, options.encoding_errors)
    texts: list[str] = []
    labels: list[Label] = []
    lines: list[int] = []
    weights: list[Any] = []
    names: tuple[str | None, ...] | None = None  # columns of texts, labels and weights
    # Not splitlines(): JSON strings may hold U+2028 and other line separators of Unicode.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: a line must be a JSON object, not {type(row).__name__}.")
        if names is None:
            names = options.columns(list(row), f"{path}, line {number}")
            names = (*names, options.weight_column(list(row), names, f"{path}, line {number}"))
        for name in names:
            if name is not None and name not in row:
                raise DataError(f"{path}, line {number}: the object has no {name!r}.")
        texts.append(row[names[0]])
        lines.append(number)
        if names[1] is not None:
            labels.append(row[names[1]])
        if names[2] is not None:
            weights.append(row[names[2]])
    weighted = names is not None and names[2] is not None
    return checked_data(
        texts, labels if options.labelled else None, str(path), lines, options, weights if weighted else None
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ``ValueError`` for a repeated name, whose first value would be lost."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a name appears more than once")
    return row
