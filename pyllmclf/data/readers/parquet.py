"""Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import DataError
from .encoding import decode_values
from .options import ReadOptions
from .text_data import TextData
from .values import checked_data


def read_parquet(path: Path, options: ReadOptions) -> TextData:
    """Reads the text and the label column of a file; raises as :func:`.files.read_path`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        text_name, label_name = options.columns(file.schema_arrow.names, str(path))
        weight_name = options.weight_column(file.schema_arrow.names, (text_name, label_name), str(path))
        table = file.read(columns=[n for n in (text_name, label_name, weight_name) if n is not None])
        texts = _strings(table.column(text_name), str(path), options.encoding_errors)
        labels = table.column(label_name).to_pylist() if label_name is not None else None
        weights = table.column(weight_name).to_pylist() if weight_name is not None else None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from error
    return checked_data(texts, labels, str(path), None, options, weights)


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
