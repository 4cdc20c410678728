"""Arrow IPC files, with an index (as Feather has it since version 2) or as a stream."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .arrow_columns import needed, pick_columns, table_data
from .data_file import DataFile, data_file_of
from .options import ReadOptions
from .text_data import TextData

# First bytes of both.
INDEXED, STREAMED = b"ARROW1", b"\xff\xff\xff\xff"


def read_arrow(data: Path | DataFile, options: ReadOptions) -> TextData:
    """Reads the needed columns of a file; raises as :func:`.files.read_path`."""
    import pyarrow as pa
    from pyarrow import ipc

    path = data_file_of(data)
    try:
        open_it = ipc.open_file if path.head(len(INDEXED)) == INDEXED else ipc.open_stream
        # Mapped, so that only the columns that are read take memory.
        with (
            pa.memory_map(str(path.content))
            if isinstance(path.content, Path)
            else pa.BufferReader(path.content) as file
        ):

            def table(fields: list[int] | None = None) -> pa.Table:
                file.seek(0)
                return open_it(file, options=ipc.IpcReadOptions(included_fields=fields)).read_all()

            names = open_it(file).schema.names
            columns = pick_columns(names, lambda: table().to_batches(), path.origin, options)
            chosen = table(sorted(names.index(name) for name in needed(columns)))
            return table_data(chosen, columns, path.origin, options)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Arrow file ({error}).") from error
