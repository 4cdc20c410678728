"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError
from .columns import joined
from .data_file import DataFile, data_file_of
from .encoding import decode_values
from .notes import Notes
from .options import ReadOptions
from .text_data import TextData
from .values import checked_data


def read_parquet(data: Path | DataFile, options: ReadOptions) -> TextData:
    """Reads the text and the label columns of a file; raises as :func:`.files.read_path`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = data_file_of(data)
    notes = Notes(path.origin)

    def rows() -> Iterator[Any]:
        for batch in file.iter_batches():
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    try:
        file = pq.ParquetFile(path.content if isinstance(path.content, Path) else pa.BufferReader(path.content))
        columns = options.pick(file.schema_arrow.names, path.origin, rows, notes, header=True)
        table = file.read(columns=[*columns.text_names, *filter(None, [columns.label_name])])
        parts = [_strings(table.column(name), path.origin, options.encoding_errors) for name in columns.text_names]
        texts = parts[0] if len(parts) == 1 else [joined(row) for row in zip(*parts, strict=True)]
        labels = None if columns.label_name is None else table.column(columns.label_name).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from error
    notes.say()
    return checked_data(texts, labels, str(path), None, options)


def _strings(column: Any, origin: str, encoding_errors: str) -> list[Any]:
    """Values of a column; invalid UTF-8 in strings is replaced if ``encoding_errors`` says so, and raises otherwise."""
    import pyarrow as pa

    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if encoding_errors == "strict" or not (
            pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        ):
            raise
    return decode_values(column.cast(pa.large_binary()).to_pylist(), origin)
