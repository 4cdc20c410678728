"""Rows of CSV and TSV files that every reader takes apart as they were written."""

from __future__ import annotations

import csv
from typing import Any, TextIO


def row_writer(file: TextIO, delimiter: str = ",") -> Any:
    """A writer of the csv module whose lines end in a line feed, and which quotes fields with a carriage return.

    Some versions of Python quote a carriage return only where it is part of the line end.
    """
    return csv.writer(_LineFeeds(file), delimiter=delimiter, lineterminator="\r\n")


class _LineFeeds:
    """Replaces the line end of each row; the csv module writes a row at a time."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")
