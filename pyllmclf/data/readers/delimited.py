"""CSV and TSV files."""

from __future__ import annotations

import csv
import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import DataError
from .encoding import read_text
from .options import ReadOptions
from .text_data import Fault, Label, TextData
from .values import broken_row, checked_data


def read_csv(path: Path, options: ReadOptions) -> TextData:
    """Reads a file with commas between fields; raises as :func:`.files.read_path`."""
    return _read(path, ",", options)


def read_tsv(path: Path, options: ReadOptions) -> TextData:
    """Reads a file with tabs between fields; raises as :func:`.files.read_path`."""
    return _read(path, "\t", options)


def _read(path: Path, delimiter: str, options: ReadOptions) -> TextData:
    content = read_text(path, options.encoding_errors)
    texts: list[str] = []
    labels: list[Label] = []
    lines: list[int] = []
    weights: list[str] = []
    broken: list[Fault] = []
    with _unlimited_field_size():
        rows = _rows(path, content, delimiter)
        first_line, header = next(rows, (1, None))
        if header is None:
            raise DataError(f"{path}: the file is empty.")
        text_name, label_name = options.columns(header, f"{path}, line {first_line}")
        text_index = header.index(text_name)
        label_index = None if label_name is None else header.index(label_name)
        weight_name = options.weight_column(header, (text_name, label_name), f"{path}, line {first_line}")
        weight_index = None if weight_name is None else header.index(weight_name)
        for line, row in rows:
            if len(row) != len(header):
                problem = f"{len(row)} fields where the header has {len(header)}; "
                problem += "quote fields that hold the delimiter or a line break"
                broken.append(broken_row(f"{path}, line {line}", problem, options))
                continue
            texts.append(row[text_index])
            lines.append(line)
            if label_index is not None:
                labels.append(row[label_index])
            if weight_index is not None:
                weights.append(row[weight_index])
    columns = (labels if options.labelled else None, weights if weight_index is not None else None)
    return checked_data(texts, columns[0], str(path), lines, options, columns[1], untyped=True, broken=broken)


def _rows(path: Path, content: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Fields of each row, with the line on which it begins; empty lines are left out."""
    # The csv module rather than pandas: it knows the line of a broken row, and never guesses a type.
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}: the quoting of the row that begins here is broken ({error}); "
            'write a quote inside a quoted field as "".'
        ) from error


# The csv module has one limit per process, which other threads that read share.
_limit_lock = threading.Lock()
_limit_users = 0
_limit_before = 0


@contextmanager
def _unlimited_field_size() -> Iterator[None]:
    """Lifts the csv module's limit on the size of a field; the last of several concurrent users restores it."""
    global _limit_users, _limit_before
    with _limit_lock:
        if _limit_users == 0:
            _limit_before = csv.field_size_limit(sys.maxsize)
        _limit_users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if _limit_users == 0:
                csv.field_size_limit(_limit_before)
