"""Parquet files."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .arrow_columns import needed, pick_columns, table_data
from .data_file import DataFile, data_file_of
from .options import ReadOptions
from .text_data import TextData


def read_parquet(data: Path | DataFile, options: ReadOptions) -> TextData:
    """Reads the needed columns of a file; raises as :func:`.files.read_path`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = data_file_of(data)
    try:
        with pq.ParquetFile(path.content if isinstance(path.content, Path) else pa.BufferReader(path.content)) as file:
            columns = pick_columns(file.schema_arrow.names, file.iter_batches, path.origin, options)
            table = file.read(columns=needed(columns))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from error
    return table_data(table, columns, path.origin, options)
