"""Delimited files: CSV, TSV and their relatives."""

from __future__ import annotations

import csv
import itertools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import DataError
from .columns import Columns
from .data_file import DataFile, data_file_of
from .dialect import ENDINGS, Dialect, sniff, without_quoting
from .encoding import TextFile, open_text
from .notes import Notes
from .options import ReadOptions
from .reread_lines import RereadLines
from .text_data import Fault, Label, TextData
from .values import broken_row, checked_data

# Labels that are equal share one string, up to so many distinct ones.
_SHARED_LABELS = 1 << 16


def read_delimited(data: Path | DataFile, options: ReadOptions) -> TextData:
    """Reads a file whose fields are separated by commas, semicolons, tabs or bars; the name and the header tell which.

    The file is read in pieces: beside the rows themselves, only the part around the current row is in memory.

    Raises
    ------
    DataError
        As :func:`.files.read_path`.
    """
    file = data_file_of(data)
    notes = Notes(file.origin)
    with _unlimited_field_size():
        text = open_text(file, options.encoding_errors, options.encoding, notes)
        dialect = sniff(
            text, ENDINGS.get(file.ending), options.delimiter_character, options.header, options.chosen_names, notes
        )
        dialect = without_quoting(text, dialect, options.header, options.label_of, notes)
        table = _Table(text, dialect, options, notes)
        texts, labels, weights, lines = table.read()
        broken = table.broken
        table.note_joined_lines()
    notes.say()
    return checked_data(texts, labels, file.origin, lines, options, weights, untyped=True, broken=broken)


class _Table:
    """The rows of a file."""

    def __init__(self, text: TextFile, dialect: Dialect, options: ReadOptions, notes: Notes) -> None:
        self.text, self.dialect, self.options, self.notes = text, dialect, options, notes
        self.origin = text.file.origin
        self.joined_lines: tuple[int, int] | None = None
        self.broken: list[Fault] = []
        # Columns that every row must have; those that are read are not known while rows are looked at to find them.
        self.needed = 0
        first_line, first = next(self._numbered(), (1, None))
        if first is None:
            raise DataError(f"{self.origin}: the file is empty.")
        self.width = len(first)
        # Spreadsheets write empty columns at the end, which rows may lack.
        self.named = max((i for i, name in enumerate(first, start=1) if name.strip()), default=self.width)
        names = first
        if not options.header:
            names, self.named = [str(i) for i in range(self.width)], self.width
        self.columns: Columns = options.pick(
            names, f"{self.origin}, line {first_line}", lambda: (row for _, row in self.rows()), notes
        )
        self.needed = max(self.columns.places) + 1

    def read(self) -> tuple[list[str], list[Label] | None, list[str] | None, list[int]]:
        """Texts, labels, weights and line numbers of all rows; ``None`` for what is not read."""
        texts: list[str] = []
        labels: list[Label] = []
        weights: list[str] = []
        lines: list[int] = []
        shared: dict[str, str] = {}
        text_of, single = self.columns.text, len(self.columns.text_places) == 1
        text_index, label_index, weight_index = self.columns.texts[0], self.columns.label, self.columns.weight
        for line, row in self.rows(self.broken):
            texts.append(row[text_index] if single else text_of(row))
            lines.append(line)
            if label_index is not None:
                label = row[label_index]
                if label not in shared and len(shared) < _SHARED_LABELS:
                    shared[label] = label
                labels.append(shared.get(label, label))
            if weight_index is not None:
                weights.append(row[weight_index])
        return texts, None if label_index is None else labels, None if weight_index is None else weights, lines

    def rows(self, broken: list[Fault] | None = None) -> Iterator[tuple[int, list[str]]]:
        """Fields of each row but the header, with the line on which it begins.

        Where faults are collected, rows of another number of fields, or with broken quotes, are left out, and are added
        to ``broken``.

        Raises
        ------
        DataError
            If a row has another number of fields, or its quotes are broken.
        """
        for line, row in itertools.islice(self._numbered(broken), int(self.options.header), None):
            problem = None if len(row) == self.width else self._wrong_width(row)
            if problem is not None:
                fault = broken_row(f"{self.origin}, line {line}", problem, self.options)
                if broken is not None:
                    broken.append(fault)
                continue
            yield line, row

    def note_joined_lines(self) -> None:
        """Notes that quotes have made one row of lines that could each be one, where quotes are unusual."""
        if self.joined_lines is not None:
            first, last = self.joined_lines
            self.notes.add(f"with lines {first} to {last} as one row, since quotes enclose them (each could be a row)")

    def _wrong_width(self, row: list[str]) -> str | None:
        """What is wrong with a row of another width; ``None`` where it has or lacks empty fields at the end."""
        if len(row) > self.width and not any(row[self.width :]):
            return None
        if max(self.named, self.needed) <= len(row) < self.width:
            return None
        advice = "quote fields that hold the delimiter or a line break"
        if not self.dialect.quoted:
            advice = "a field must hold neither the delimiter nor a line break"
        return (
            f"{len(row)} fields where the {'header' if self.options.header else 'first row'} has {self.width}; {advice}"
        )

    def _numbered(self, broken: list[Fault] | None = None) -> Iterator[tuple[int, list[str]]]:
        """Fields of each row, with the line on which it begins; empty lines are left out.

        Where faults are collected, a row with broken quotes is one, and the line after the one on which it begins is
        the next row.
        """
        # The csv module rather than pandas: it knows the line of a broken row, and never guesses a type.
        skipped, delimiter = self.dialect.skipped, self.dialect.delimiter
        may_join = self.dialect.quoted and not self.dialect.surely_quoted and delimiter in "\t|"
        with self.text.open() as file:
            source: Iterator[str] = itertools.islice(file, skipped, None)
            lines = RereadLines(source) if self.options.collects else None
            line = 1
            while True:
                reader, before = self.dialect.reader(source if lines is None else lines), line - 1
                try:
                    for row in reader:
                        if row:
                            yield line + skipped, row
                        last = before + reader.line_num
                        if may_join and last > line and self.joined_lines is None and len(row) > 1:
                            parts = delimiter.join(row).split("\n")
                            if all(part.count(delimiter) == len(row) - 1 for part in parts):
                                self.joined_lines = (line + skipped, last + skipped)
                        line = last + 1
                        if lines is not None:
                            lines.forget()
                    return
                except csv.Error as error:
                    where = f"{self.origin}, line {line + skipped}"
                    problem = (
                        f"the quoting of the row that begins here is broken ({error}); write a quote inside a quoted "
                        'field as ""'
                    )
                    # Without a header there are no columns.
                    if lines is None or line == 1 or not lines.again_after_first():
                        raise DataError(f"{where}: {problem}.") from error
                    if broken is not None:
                        broken.append(broken_row(where, problem, self.options))
                    line += 1


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
