"""Rows of streams with all their columns, as they arrive and without holding all of them."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ...errors import DataError
from .arrow_rows import parquet_rows
from .columns import Columns
from .compression import without_packing
from .delimited import _unlimited_field_size
from .json_rows import object_of
from .line_stream import LineStream
from .options import ReadOptions
from .row_batches import Row, RowStream, batches_of, distinct_names

DELIMITERS = {"csv": ",", "tsv": "\t"}
ENDINGS = {
    ".txt": "txt", ".csv": "csv", ".psv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
STREAMED = tuple(dict.fromkeys(ENDINGS.values()))


def streamed_format(path: Path) -> str | None:
    """Format of a file by the ending of its name, without that of its packing; ``None`` for others."""
    return ENDINGS.get(Path(without_packing(path.name)).suffix.lower())


def _is_gzipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def open_stream(path: Path) -> BinaryIO:
    """Opens a file, or a pipe, whose bytes are decompressed if its name ends in ``.gz``.

    Raises
    ------
    DataError
        If there is no such file, or it can't be read.
    """
    if path.is_dir() or not path.exists():
        raise DataError(f"{path}: {'a folder, not a file' if path.is_dir() else 'there is no such file'}.")
    try:
        return gzip.open(path) if _is_gzipped(path) else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error}).") from error


def read_rows(file: BinaryIO, origin: str, kind: str, options: ReadOptions, *, live: bool) -> RowStream:
    """Reads rows from an open file.

    Parameters
    ----------
    file : binary file
    origin : str
        For messages.
    kind : {"txt", "csv", "tsv", "jsonl", "parquet"}
        ``"txt"`` has a text per line.
    options : ReadOptions
        Column of the texts and treatment of invalid bytes.
    live : bool
        Whether rows arrive while others are read, as from a pipe: a batch then holds what has arrived, and those
        before an invalid row form a batch, too.

    Returns
    -------
    RowStream
        Its batches raise :class:`DataError` for an invalid row, with its line.

    Raises
    ------
    DataError
        If the header is invalid, or lacks the column.
    """
    if kind == "parquet":
        return parquet_rows(file, origin, options)
    lines = LineStream(file, origin, options.encoding_errors, options.encoding)
    if kind == "txt":
        texts = ((lines.number, line.removesuffix("\n").removesuffix("\r"), None) for line in lines)
        return RowStream(batches_of(texts, origin, options, lines, live=live))
    if kind == "jsonl":
        stream = RowStream(is_json=True)
        rows = _json_rows(lines, origin, options, stream)
        stream.batches = batches_of(rows, origin, options, lines, live=live)
        return stream
    return _delimited(lines, origin, options.delimiter_character or DELIMITERS[kind], options, live)


def _delimited(lines: LineStream, origin: str, delimiter: str, options: ReadOptions, live: bool) -> RowStream:
    # A line of an old Macintosh ends in a carriage return alone.
    parts = (part for line in lines for part in (io.StringIO(line, newline="") if "\r" in line else (line,)))
    rows = _fields(parts, origin, delimiter)
    first_line, header = next(rows, (1, None))
    if header is None:
        raise DataError(f"{origin}: the file is empty.")
    names = header
    if not options.header:
        rows, names = itertools.chain([(first_line, header)], rows), [str(i) for i in range(len(header))]
    columns = options.pick(names, f"{origin}, line {first_line}")
    names = distinct_names(names)

    def records() -> Iterator[Row]:
        for line, row in rows:
            if len(row) != len(header):
                raise DataError(
                    f"{origin}, line {line}: {len(row)} fields where the header has {len(header)}; "
                    "quote fields that hold the delimiter or a line break."
                )
            yield line, columns.text(row), dict(zip(names, row, strict=True))

    return RowStream(batches_of(records(), origin, options, lines, live=live), names)


def _fields(lines: Iterator[str], origin: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Fields of each row, with the line on which it begins; empty lines are left out."""
    parts: list[str] = []  # lines of the row that is read

    def kept() -> Iterator[str]:
        for part in lines:
            parts.append(part)
            yield part

    with _unlimited_field_size():
        reader = csv.reader(kept(), delimiter=delimiter, strict=True)
        line, width, warned = 1, 0, delimiter in ",;"  # by convention, texts with these are quoted
        try:
            for row in reader:
                width = width or len(row)
                if not warned and len(parts) > 1 and all(part.count(delimiter) + 1 == width > 1 for part in parts):
                    _warn_joined(origin, line, line + len(parts) - 1, width)
                    warned = True
                parts.clear()
                if row:
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{origin}, line {line}: the quoting of the row that begins here is broken ({error}); "
                'write a quote inside a quoted field as "".'
            ) from error


def _warn_joined(origin: str, first: int, last: int, width: int) -> None:
    warnings.warn(
        f"{origin}: quotes join lines {first} to {last}, each of which has {width} fields of its own; if quotes are "
        "characters as any other, save the input to a file: one whose lines all show that is read without quoting.",
        RuntimeWarning,
        stacklevel=2,
    )


def _json_rows(lines: LineStream, origin: str, options: ReadOptions, stream: RowStream) -> Iterator[Row]:
    columns: Columns | None = None
    for content in lines:
        if not content.strip():
            continue
        where = f"{origin}, line {lines.number}"
        try:
            row = json.loads(content, object_pairs_hook=object_of)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: a line must be a JSON object, not {type(row).__name__}.")
        if columns is None:
            stream.columns = list(row)
            columns = options.pick(stream.columns, where, header=True)
        yield lines.number, columns.text_of(row, where), row


def looks_like(line: str, options: ReadOptions) -> str | None:
    """The format whose header or first row a line of text looks like, for a hint; ``None`` for a plain text."""
    line = line.strip()
    kinds: list[tuple[str, Callable[[], list[str]]]] = [
        ("jsonl", lambda: list(json.loads(line))),
        ("csv", lambda: line.split(",")),
        ("tsv", lambda: line.split("\t")),
    ]
    for kind, columns in kinds:
        if kind == "jsonl" and not line.startswith("{"):
            continue
        try:
            names = columns()
            options.pick(names, "", header=True)
        except (ValueError, RecursionError):  # DataError is one
            continue
        if kind == "jsonl" or len(names) > 1:
            return kind
    return None
