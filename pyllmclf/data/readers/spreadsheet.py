"""Spreadsheets: Excel's workbooks and OpenDocument's, by python-calamine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import DataError, ResourceError
from ...memory import available_memory
from .columns import Columns
from .data_file import DataFile, data_file_of
from .notes import Notes
from .options import ReadOptions
from .text_data import TextData
from .values import checked_data

_PROGRAM = Path(__file__).with_name("spreadsheet_process.py")
_LEAST_MEMORY = 2**28  # of the other process, in bytes
# First bytes of the two containers of workbooks, of which zip has two: a text may begin with "PK".
ZIP, OLE = (b"PK\x03\x04", b"PK\x05\x06"), b"\xd0\xcf\x11\xe0"


def read_spreadsheet(data: Path | DataFile, options: ReadOptions) -> TextData:
    """Reads the first sheet that has cells; its first row that is not empty holds the names of the columns.

    Numbers in the text column become text, as in a CSV file. Empty cells and errors (``#N/A``) are missing values.
    Raises as :func:`.files.read_path`, and :class:`ResourceError` for a workbook that doesn't fit into free memory.
    """
    file = data_file_of(data)
    texts: list[Any] = []
    labels: list[Any] = []
    weights: list[Any] = []
    lines: list[int] = []
    with open_sheet(file, options) as (origin, columns, rows):
        for line, row in rows:
            texts.append(text_of(columns, row))
            lines.append(line)
            if columns.label is not None:
                labels.append(row[columns.label])
            if columns.weight is not None:
                weights.append(row[columns.weight])
    return checked_data(
        texts,
        labels if options.labelled else None,
        origin,
        lines,
        options,
        None if columns.weight is None else weights,
    )


def text_of(columns: Columns, row: list[Any]) -> Any:
    """Text of a row, whose numbers become text."""
    return columns.text([cell if cell is None or isinstance(cell, str) else str(cell) for cell in row])


@contextmanager
def open_sheet(file: DataFile, options: ReadOptions) -> Iterator[tuple[str, Columns, Iterator[tuple[int, list[Any]]]]]:
    """The first sheet with cells: its name for messages, its columns, and its rows with their line, from 1.

    Raises as :func:`read_spreadsheet`.
    """
    _check_container(file)
    with _cells(file) as (sheet, cells):
        origin = file.origin if sheet is None else f"{file}, sheet {sheet!r}"
        notes = Notes(origin)
        filled = ((line, row) for line, row in enumerate(cells, start=1) if any(cell is not None for cell in row))
        first = next(filled, None)
        if first is None:
            raise DataError(f"{file}: the file has no cells.")
        kept: list[tuple[int, list[Any]]] = []
        if options.header:
            names = [f"Unnamed: {i}" if cell is None else str(cell) for i, cell in enumerate(first[1])]
        else:
            names = [str(i) for i in range(len(first[1]))]
            kept.append(first)

        def rows() -> Iterator[list[Any]]:
            kept.extend(filled)
            return (row for _, row in kept)

        columns = options.pick(names, f"{origin}, line {first[0]}", rows, notes)
        notes.say()
        yield origin, columns, chain(kept, filled)


def _check_container(file: DataFile) -> None:
    """Raises for a file that is no workbook, and for one whose parts are larger than free memory."""
    head = file.head(512)
    if not head.startswith((*ZIP, OLE)):
        hint = "" if b"\0" in head else "; it holds text: give it the ending of its format, .csv or .tsv"
        raise DataError(f"{file}: not a workbook{hint}.")
    if head.startswith(ZIP):
        with suppress(zipfile.BadZipFile, NotImplementedError), file.open() as content:
            parts = zipfile.ZipFile(content).infolist()
            size, free = sum(part.file_size for part in parts), available_memory()
            if size > free:
                raise ResourceError(
                    f"{file}: takes {size / 1e9:,.1f} GB unpacked, and {free / 1e9:,.1f} GB of memory are free."
                )


@contextmanager
def _cells(file: DataFile) -> Iterator[tuple[str | None, Iterator[list[Any]]]]:
    """The name of the sheet, where there are several, and its rows, while another process parses the file."""
    memory = max(available_memory(), _LEAST_MEMORY)
    path = os.fspath(file.content.absolute()) if isinstance(file.content, Path) else None
    request = {"path": path, "sys_path": sys.path, "memory": memory}
    # Isolated, so that no file in the working directory is imported; packages are those of this process.
    with subprocess.Popen(
        [sys.executable, "-I", str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.write(b"" if isinstance(file.content, Path) else file.content)
                process.stdin.close()
            answers = map(json.loads, process.stdout)
            first = next(answers, None)
            if first is None:
                raise _unreadable(file, "MemoryError")
            if "error" in first:
                raise _unreadable(file, first["error"])
            yield first["sheet"] if first["sheets"] > 1 else None, _rows(answers, file)
            if process.wait() != 0:
                raise _unreadable(file, "MemoryError")
        finally:
            process.kill()


def _rows(answers: Iterator[Any], file: DataFile) -> Iterator[list[Any]]:
    for answer in answers:
        if isinstance(answer, dict):
            raise _unreadable(file, answer["error"])
        yield answer


def _unreadable(file: DataFile, problem: str) -> DataError | ResourceError:
    if problem.startswith("MemoryError"):
        return ResourceError(
            f"{file}: the sheet needs more memory than is free; delete cells that lie far away from the others, or "
            "save it as CSV."
        )
    if problem.startswith("PasswordError"):
        return DataError(f"{file}: the workbook is protected by a password; save it without one.")
    return DataError(f"{file}: not a readable workbook ({problem}).")
