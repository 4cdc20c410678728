"""Rows of files and streams in batches with all their columns, as they arrive and without holding all of them."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import DataError
from .compression import without_packing
from .delimited import _unlimited_field_size
from .line_stream import LineStream
from .options import ReadOptions
from .values import checked_data

DELIMITERS = {"csv": ",", "tsv": "\t"}
ENDINGS = {
    ".txt": "txt", ".csv": "csv", ".psv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "jsonl", ".parquet": "parquet",
}  # fmt: skip
STREAMED = tuple(dict.fromkeys(ENDINGS.values()))

# Bounds of a batch: enough for whole batches of a GPU, few enough for memory.
BATCH_ROWS, BATCH_CHARACTERS = 4096, 1 << 22


@dataclass(frozen=True)
class Rows:
    """A batch of rows.

    Attributes
    ----------
    texts : list of str
    records : list of dict, or None
        All columns of each row; ``None`` for lines of text.
    table : pyarrow.Table or None
        The same with the types of a Parquet file.
    lines : list of int or None
        Line on which each row begins, from 1.
    """

    texts: list[str]
    records: list[dict[str, Any]] | None = None
    table: Any = None
    lines: list[int] | None = None


@dataclass
class RowStream:
    """Batches of rows, with what is known of them before the first.

    Attributes
    ----------
    batches : iterator of Rows
    columns : list of str or None
        Names of the columns; ``None`` for lines of text, and until the first row of JSON lines is read.
    schema : pyarrow.Schema or None
        Of a Parquet file.
    is_json : bool
        Whether rows are objects, which may have different names, and values of any type.
    """

    batches: Iterator[Rows] = field(default_factory=lambda: iter(()))
    columns: list[str] | None = None
    schema: Any = None
    is_json: bool = False


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
        return _parquet(file, origin, options)
    lines = LineStream(file, origin, options.encoding_errors, options.encoding)
    if kind == "txt":
        texts = ((lines.number, line.removesuffix("\n").removesuffix("\r"), None) for line in lines)
        return RowStream(_batches(texts, lines, live, origin, options))
    if kind == "jsonl":
        stream = RowStream(is_json=True)
        stream.batches = _batches(_json_rows(lines, origin, options, stream), lines, live, origin, options)
        return stream
    return _delimited(lines, origin, options.delimiter_character or DELIMITERS[kind], options, live)


# Line, text (not yet checked), and all columns of a row.
_Row = tuple[int, Any, dict[str, Any] | None]


def _batches(
    rows: Iterator[_Row], lines: LineStream | None, live: bool, origin: str, options: ReadOptions
) -> Iterator[Rows]:
    batch: list[_Row] = []
    characters = 0
    try:
        for line, text, record in rows:
            text = checked_data([text], None, origin, [line], options).texts[0]
            batch.append((line, text, record))
            characters += len(text)
            full = len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS
            if full or (live and lines is not None and not lines.ready):
                yield _rows(batch)
                batch, characters = [], 0
    except DataError:
        if live and batch:  # the rows of a pipe can't be read again
            yield _rows(batch)
        raise
    if batch:
        yield _rows(batch)


def _rows(batch: list[_Row]) -> Rows:
    records = [record for _, _, record in batch if record is not None]
    return Rows([text for _, text, _ in batch], records or None, None, [line for line, _, _ in batch])


def _delimited(lines: LineStream, origin: str, delimiter: str, options: ReadOptions, live: bool) -> RowStream:
    # A line of an old Macintosh ends in a carriage return alone.
    parts = (part for line in lines for part in (io.StringIO(line, newline="") if "\r" in line else (line,)))
    rows = _fields(parts, origin, delimiter)
    first_line, header = next(rows, (1, None))
    if header is None:
        raise DataError(f"{origin}: the file is empty.")
    columns = header
    if not options.header:
        rows, columns = itertools.chain([(first_line, header)], rows), [str(i) for i in range(len(header))]
    place, names = _text_place(columns, f"{origin}, line {first_line}", options, options.header), _distinct(columns)

    def records() -> Iterator[_Row]:
        for line, row in rows:
            if len(row) != len(header):
                raise DataError(
                    f"{origin}, line {line}: {len(row)} fields where the header has {len(header)}; "
                    "quote fields that hold the delimiter or a line break."
                )
            yield line, row[place], dict(zip(names, row, strict=True))

    return RowStream(_batches(records(), lines, live, origin, options), names)


def _text_place(names: list[str], origin: str, options: ReadOptions, header: bool = True) -> int:
    """Place of the column of the texts; raises as :meth:`ReadOptions.pick`."""
    return options.pick(names, origin, header=header).texts[0]


def _distinct(names: list[str]) -> list[str]:
    """Names of which repeated ones are numbered, as pandas does: ``a``, ``a.1``, ``a.2``."""
    distinct: list[str] = []
    for name in names:
        tries = (name if number == 0 else f"{name}.{number}" for number in itertools.count())
        distinct.append(next(each for each in tries if each not in distinct))
    return distinct


def _fields(lines: Iterator[str], origin: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Fields of each row, with the line on which it begins; empty lines are left out."""
    with _unlimited_field_size():
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        line = 1
        try:
            for row in reader:
                if row:
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{origin}, line {line}: the quoting of the row that begins here is broken ({error}); "
                'write a quote inside a quoted field as "".'
            ) from error


def _json_rows(lines: LineStream, origin: str, options: ReadOptions, stream: RowStream) -> Iterator[_Row]:
    name: str | None = None
    for content in lines:
        if not content.strip():
            continue
        where = f"{origin}, line {lines.number}"
        try:
            row = json.loads(content, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: a line must be a JSON object, not {type(row).__name__}.")
        if name is None:
            stream.columns = list(row)
            name = stream.columns[_text_place(stream.columns, where, options)]
        if name not in row:
            raise DataError(f"{where}: the object has no {name!r}.")
        yield lines.number, row[name], row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a name appears more than once")
    return row


def _parquet(file: BinaryIO, origin: str, options: ReadOptions) -> RowStream:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pq.ParquetFile(file if file.seekable() else io.BytesIO(file.read()))
        schema = source.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{origin}: not a readable Parquet file ({error}).") from error
    place, names = _text_place(schema.names, origin, options), _distinct(schema.names)
    schema = pa.schema([each.with_name(name) for each, name in zip(schema, names, strict=True)])
    return RowStream(_parquet_rows(source, origin, place, options), names, schema)


def _parquet_rows(source: Any, origin: str, place: int, options: ReadOptions) -> Iterator[Rows]:
    import pyarrow as pa

    done = 0
    try:
        for batch in source.iter_batches(batch_size=BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            names = table.schema.names
            columns = [_strings(column, origin, options.encoding_errors) for column in table.columns]
            where = origin if done == 0 else f"{origin} (counted from row {done:,})"
            texts = checked_data(list(columns[place]), None, where, None, options).texts
            table, names = table.rename_columns(_distinct(names)), _distinct(names)
            yield Rows(texts, [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], table)
            done += len(texts)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{origin}: not a readable Parquet file ({error}).") from error


def _strings(column: Any, origin: str, encoding_errors: str) -> list[Any]:
    """Values of a column; invalid UTF-8 in strings is replaced if ``encoding_errors`` says so, and raises otherwise."""
    import pyarrow as pa

    from .encoding import decode_values

    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if encoding_errors == "strict" or not is_text:
            raise
    return decode_values(column.cast(pa.large_binary()).to_pylist(), origin)


def first_batch_read(stream: RowStream) -> RowStream:
    """The same stream, whose first batch is read, so that its errors come now."""
    first = next(stream.batches, None)
    rest = stream.batches

    def batches() -> Iterator[Rows]:
        if first is not None:
            yield first
            yield from rest

    stream.batches = batches()
    return stream


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
            _text_place(names, "", options)
        except (ValueError, RecursionError):  # DataError is one
            continue
        if kind == "jsonl" or len(names) > 1:
            return kind
    return None
