"""The table of file formats, and files by the ending of their name, or by their content."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ...errors import DataError
from .compression import PACKED_ENDINGS, without_packing
from .data_file import DataFile, open_data_file
from .delimited import read_delimited
from .encoding import decode
from .encoding_guess import HEAD
from .jsonl import read_jsonl
from .options import ReadOptions
from .parquet import read_parquet
from .text_data import TextData


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
JSONL = FileFormat(read_jsonl)
PARQUET = FileFormat(read_parquet, is_text=False)
FORMATS = {
    ".csv": DELIMITED,
    ".tsv": DELIMITED,
    ".tab": DELIMITED,
    ".psv": DELIMITED,
    ".txt": DELIMITED,
    ".jsonl": JSONL,
    ".parquet": PARQUET,
}
FILE_TYPES = tuple(FORMATS)


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
        return read_folder(path, options)
    file = open_data_file(path)
    return _format_of(file).read(file, options)


def read_folder(path: Path, options: ReadOptions) -> TextData:
    """Refuses a folder, with the names of files in it that could be meant."""
    files = sorted(entry.name for entry in path.iterdir() if format_of_name(entry.name) is not None)
    inside = f", such as {', '.join(files[:3])}" if files else ""
    raise DataError(f"{path}: is a folder; name a file in it{inside}.")


def format_of_name(name: str) -> FileFormat | None:
    """Format of a file by the ending of its name, packed or not; ``None`` if there is none with it."""
    return FORMATS.get(PurePath(without_packing(name)).suffix.lower())


def is_file_name(name: str) -> bool:
    """Whether a name can only be meant for a file: it ends like one, or has folders."""
    path = PurePath(name)
    return len(path.parts) > 1 or path.suffix.lower() in (*FORMATS, *PACKED_ENDINGS)


def _format_of(file: DataFile) -> FileFormat:
    """Format of a file; its content overrules its name where it is none that the name's format has.

    Raises
    ------
    DataError
        If neither the name nor, for a pipe, the content tells.
    """
    named = FORMATS.get(file.ending)
    head = file.head(HEAD)
    if head.startswith(b"PAR1"):
        return PARQUET
    if named is not None:
        return named
    if not file.is_stream:
        raise DataError(f"{file}: can't tell the format; the name must end in one of {', '.join(FILE_TYPES)}.")
    return _format_of_stream(file, head)


def _format_of_stream(file: DataFile, head: bytes) -> FileFormat:
    """Format of what a pipe holds, by its first characters."""
    first_line = head.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")[0]
    if first_line.startswith(b"{"):
        try:
            json.loads(decode(first_line, file.origin, "replace"))
        except ValueError:
            return FORMATS.get(".json", JSONL)
        return JSONL
    return FORMATS.get(".json", JSONL) if first_line.startswith(b"[") else DELIMITED
