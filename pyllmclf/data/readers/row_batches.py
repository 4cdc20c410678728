"""Batches of rows with all their columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ...errors import DataError
from ...text_pair import Text, characters
from .line_stream import LineStream
from .options import ReadOptions
from .values import checked_data

# Bounds of a batch: enough for whole batches of a GPU, few enough for memory.
BATCH_ROWS, BATCH_CHARACTERS = 4096, 1 << 22


@dataclass(frozen=True)
class Rows:
    """A batch of rows.

    Attributes
    ----------
    texts : list of str or of TextPair
    records : list of dict, or None
        All columns of each row; ``None`` for lines of text.
    table : pyarrow.Table or None
        The same with the types of a Parquet file.
    lines : list of int or None
        Line on which each row begins, from 1.
    """

    texts: list[Text]
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


# Line, text (not yet checked), and all columns of a row.
Row = tuple[int, Any, dict[str, Any] | None]


def batches_of(
    rows: Iterator[Row], origin: str, options: ReadOptions, lines: LineStream | None = None, *, live: bool = False
) -> Iterator[Rows]:
    """Batches of rows, whose texts are checked.

    Parameters
    ----------
    rows : iterator of Row
    origin : str
        For messages.
    options : ReadOptions
    lines : LineStream, optional
        Source of the rows; a batch ends where the next line has not arrived, if ``live``.
    live : bool
        Whether rows that are read can't be read again, as those of a pipe: the ones before an invalid row form a batch.
    """
    batch: list[Row] = []
    size = 0
    try:
        for line, text, record in rows:
            text = checked_data([text], None, origin, [line], options).texts[0]
            batch.append((line, text, record))
            size += characters(text)
            full = len(batch) >= BATCH_ROWS or size >= BATCH_CHARACTERS
            if full or (live and lines is not None and not lines.ready):
                yield _rows(batch)
                batch, size = [], 0
    except DataError:
        if live and batch:  # the rows of a pipe can't be read again
            yield _rows(batch)
        raise
    if batch:
        yield _rows(batch)


def _rows(batch: list[Row]) -> Rows:
    records = [record for _, _, record in batch if record is not None]
    return Rows([text for _, text, _ in batch], records or None, None, [line for line, _, _ in batch])


def distinct_names(names: list[str]) -> list[str]:
    """Names of which repeated ones are numbered, as pandas does: ``a``, ``a.1``, ``a.2``."""
    distinct: list[str] = []
    for name in names:
        tries = (name if number == 0 else f"{name}.{number}" for number in itertools.count())
        distinct.append(next(each for each in tries if each not in distinct))
    return distinct


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
