"""The table of file formats, and files by the ending of their name, or by their content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ...errors import DataError
from ...file_types import TYPE_OF
from ...suggestions import closest
from .arrow import INDEXED, STREAMED, read_arrow
from .compression import PACKED_ENDINGS, without_packing
from .data_file import DataFile, open_data_file
from .delimited import read_delimited
from .encoding_guess import HEAD
from .json_files import read_json
from .options import ReadOptions
from .parquet import read_parquet
from .spreadsheet import OLE, ZIP, read_spreadsheet
from .text_data import TextData
from .text_lines import read_text_lines


@dataclass(frozen=True)
class FileFormat:
    """A file format.

    Attributes
    ----------
    read : callable
        Takes a :class:`DataFile` and :class:`ReadOptions`, returns :class:`TextData`.
    is_text : bool
        Whether files are text, which has an encoding.
    is_delimited : bool
        Whether a character separates fields, so that ``delimiter`` applies.
    has_header : bool
        Whether the first row names the columns, so that ``header`` applies.
    """

    read: Callable[[DataFile, ReadOptions], TextData]
    is_text: bool = True
    is_delimited: bool = False
    has_header: bool = False


DELIMITED = FileFormat(read_delimited, is_delimited=True, has_header=True)
JSON = FileFormat(read_json)
PARQUET = FileFormat(read_parquet, is_text=False)
ARROW = FileFormat(read_arrow, is_text=False)
SPREADSHEET = FileFormat(read_spreadsheet, is_text=False, has_header=True)
# By the names of file_types.py, which has their endings.
FORMATS = {
    "CSV": DELIMITED,
    "TSV": DELIMITED,
    "JSON": JSON,
    "JSONL": JSON,
    "Excel": SPREADSHEET,
    "OpenDocument": SPREADSHEET,
    "Parquet": PARQUET,
    "Arrow": ARROW,
    "text": FileFormat(read_text_lines, is_delimited=True, has_header=True),
}
FILE_TYPES = tuple(TYPE_OF)


def read_file(path: str | Path, **options: Any) -> TextData:
    """Reads a file; ``options`` are the fields of :class:`ReadOptions`. Raises as :func:`read_path`."""
    return read_path(Path(path), ReadOptions(**options))


def read_path(path: Path, options: ReadOptions) -> TextData:
    """Reads a file of any format of the table, also packed (gzip, bzip2, xz, Zstandard, zip), or a pipe.

    Parameters
    ----------
    path : Path
        The ending of its name tells the format; that of a pipe, which has none, its content.
    options : ReadOptions

    Raises
    ------
    DataError
        If the file can't be read, is malformed, or lacks a column; names the file and the line.
    ResourceError
        If it does not fit into memory.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not a file.")
    file = open_data_file(path)
    return format_of(file).read(file, options)


def format_name(name: str) -> str | None:
    """Name of a file's format by the ending of its name, packed or not; ``None`` if there is none with it."""
    return TYPE_OF.get(PurePath(without_packing(name)).suffix.lower())


def format_of_name(name: str) -> FileFormat | None:
    """Format of a file; see :func:`format_name`."""
    found = format_name(name)
    return None if found is None else FORMATS[found]


def is_file_name(name: str) -> bool:
    """Whether a name can only be meant for a file: it ends like one, or has folders."""
    path = PurePath(name)
    return len(path.parts) > 1 or path.suffix.lower() in (*FILE_TYPES, *PACKED_ENDINGS)


def format_of(file: DataFile) -> FileFormat:
    """Format of a file; its content overrules its name where it is none that the name's format has.

    Raises
    ------
    DataError
        If neither the name nor, for a pipe, the content tells.
    """
    named = format_of_name(file.name)
    head = file.head(HEAD)
    for first_bytes, content in (
        (b"PAR1", PARQUET),
        (INDEXED, ARROW),
        (STREAMED, ARROW),
        *((mark, SPREADSHEET) for mark in ZIP),
        (OLE, SPREADSHEET),
    ):
        if head.startswith(first_bytes):
            return content
    if named is not None:
        return named
    if not file.is_stream:
        near = closest(file.ending, FILE_TYPES)
        hint = f" (perhaps {near})" if near else ""
        raise DataError(f"{file}: can't tell the format; the name must end in one of {', '.join(FILE_TYPES)}{hint}.")
    return JSON if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[") else DELIMITED
