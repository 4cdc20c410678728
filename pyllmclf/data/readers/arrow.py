"""Arrow IPC files, with an index (as Feather has it since version 2) or as a stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError
from .arrow_columns import needed, pick_columns, table_data
from .data_file import DataFile, data_file_of
from .options import ReadOptions
from .text_data import TextData

if TYPE_CHECKING:
    import pyarrow as pa

# First bytes of both.
INDEXED, STREAMED = b"ARROW1", b"\xff\xff\xff\xff"


def mapped(file: DataFile) -> pa.NativeFile:
    """The content, mapped, so that only the columns that are read take memory."""
    import pyarrow as pa

    return pa.memory_map(str(file.content)) if isinstance(file.content, Path) else pa.BufferReader(file.content)


def open_arrow(
    file: DataFile, content: pa.NativeFile, fields: list[int] | None = None
) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    """Reader of a file's content, from its position; ``fields`` are the places of the columns to read."""
    from pyarrow import ipc

    open_it = ipc.open_file if file.head(len(INDEXED)) == INDEXED else ipc.open_stream
    return open_it(content, options=ipc.IpcReadOptions(included_fields=fields))


def read_arrow(data: Path | DataFile, options: ReadOptions) -> TextData:
    """Reads the needed columns of a file; raises as :func:`.files.read_path`."""
    import pyarrow as pa

    path = data_file_of(data)
    try:
        with mapped(path) as file:

            def table(fields: list[int] | None = None) -> pa.Table:
                file.seek(0)
                return open_arrow(path, file, fields).read_all()

            names = open_arrow(path, file).schema.names
            columns = pick_columns(names, lambda: table().to_batches(), path.origin, options)
            chosen = table(sorted(names.index(name) for name in needed(columns)))
            return table_data(chosen, columns, path.origin, options)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Arrow file ({error}).") from error
