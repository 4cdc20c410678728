"""Rows of Parquet and Arrow files in batches, with the types of their columns."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from ...errors import DataError
from .arrow import mapped, open_arrow
from .arrow_columns import column_values, pick_columns
from .columns import Columns
from .data_file import DataFile
from .options import ReadOptions
from .row_batches import BATCH_ROWS, Rows, RowStream, distinct_names
from .values import checked_data

if TYPE_CHECKING:
    import pyarrow as pa

# Of a file in memory, which a stranger may have sent: most bytes that a batch can take.
MOST_BATCH_BYTES = 256 << 20
Batches = Callable[[], Iterable["pa.RecordBatch"]]


def parquet_rows(file: BinaryIO, origin: str, options: ReadOptions) -> RowStream:
    """Rows of an open Parquet file; raises as :func:`.files.read_path`."""
    import pyarrow.parquet as pq

    with _readable(origin, "Parquet"):
        source = pq.ParquetFile(file if file.seekable() else io.BytesIO(file.read()))
        schema, rows = source.schema_arrow, BATCH_ROWS
        if isinstance(file, io.BytesIO):
            groups = [source.metadata.row_group(i).total_byte_size for i in range(source.metadata.num_row_groups)]
            # Each row may have the largest value of a dictionary.
            rows = max(1, min(BATCH_ROWS, MOST_BATCH_BYTES // max([1, *groups])))
    return _stream(schema, lambda: source.iter_batches(batch_size=rows), origin, "Parquet", options)


def arrow_rows(file: DataFile, options: ReadOptions) -> RowStream:
    """Rows of an Arrow file, with an index or as a stream; raises as :func:`.files.read_path`."""

    def batches() -> Iterator[pa.RecordBatch]:
        with mapped(file) as content:
            reader = open_arrow(file, content)
            if hasattr(reader, "get_batch"):
                yield from map(reader.get_batch, range(reader.num_record_batches))
            else:
                yield from reader

    with _readable(file.origin, "Arrow"), mapped(file) as content:
        schema = open_arrow(file, content).schema
    return _stream(schema, batches, file.origin, "Arrow", options)


@contextmanager
def _readable(origin: str, kind: str) -> Iterator[None]:
    """Raises :class:`DataError` where the file can't be read."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{origin}: not a readable {kind} file ({error}).") from error


def _stream(schema: pa.Schema, batches: Batches, origin: str, kind: str, options: ReadOptions) -> RowStream:
    import pyarrow as pa

    with _readable(origin, kind):
        columns = pick_columns(schema.names, batches, origin, options)
    names = distinct_names(schema.names)
    schema = pa.schema([each.with_name(name) for each, name in zip(schema, names, strict=True)])
    return RowStream(_rows(batches, columns, names, origin, kind, options), names, schema)


def _rows(
    batches: Batches, columns: Columns, names: list[str], origin: str, kind: str, options: ReadOptions
) -> Iterator[Rows]:
    import pyarrow as pa

    done = 0
    with _readable(origin, kind):
        for batch in batches():
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                values = [
                    column_values(
                        column, name, origin, options.encoding_errors, or_text=place not in columns.text_places
                    )
                    for place, (column, name) in enumerate(zip(part.columns, names, strict=True))
                ]
                rows = list(zip(*values, strict=True))
                where = origin if done == 0 else f"{origin} (counted from row {done:,})"
                texts = checked_data(list(map(columns.text, rows)), None, where, None, options).texts
                table = pa.Table.from_batches([part]).rename_columns(names)
                yield Rows(texts, [dict(zip(names, row, strict=True)) for row in rows], table)
                done += len(texts)
