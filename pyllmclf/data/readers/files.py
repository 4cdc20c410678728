"""The table of file formats, and files by the ending of their name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from .delimited import read_csv, read_tsv
from .encoding import is_gzipped
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
        Takes the path and :class:`ReadOptions`, returns :class:`TextData`.
    gzip : bool
        Whether files may also be gzipped; the reader then decompresses them by their name.
    """

    read: Callable[[Path, ReadOptions], TextData]
    gzip: bool = True


FORMATS = {
    ".csv": FileFormat(read_csv),
    ".tsv": FileFormat(read_tsv),
    ".jsonl": FileFormat(read_jsonl),
    ".parquet": FileFormat(read_parquet, gzip=False),
}
FILE_TYPES = tuple(FORMATS)


def read_file(path: str | Path, **options: Any) -> TextData:
    """Reads a file; ``options`` are the fields of :class:`ReadOptions`. Raises as :func:`read_path`."""
    return read_path(Path(path), ReadOptions(**options))


def read_path(path: Path, options: ReadOptions) -> TextData:
    """Reads a CSV, TSV, JSONL (each also gzipped) or Parquet file.

    Parameters
    ----------
    path : Path
        The ending of its name decides the format.
    options : ReadOptions

    Raises
    ------
    DataError
        If the file can't be read, is malformed, or lacks a column; names the file and the line.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    gzipped = is_gzipped(path)
    ending = (path.with_suffix("") if gzipped else path).suffix.lower()
    file_format = FORMATS.get(ending)
    if file_format is None or (gzipped and not file_format.gzip):
        raise DataError(f"{path}: can't tell the format; the name must end in one of {', '.join(FILE_TYPES)}.")
    return file_format.read(path, options)
