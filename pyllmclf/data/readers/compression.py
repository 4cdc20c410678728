"""Packed files, recognised by their first bytes, unpacked in pieces within a bound on memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from ...errors import DataError, ResourceError
from ...memory import available_memory

_PIECE = 1 << 20
# Unpacked content and the rows that are made of it take about three times the content's size.
_SHARE_OF_MEMORY = 3

_FIRST_BYTES = {
    ".gz": re.compile(rb"\x1f\x8b\x08"),
    ".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", re.DOTALL),
    ".xz": re.compile(rb"\xfd7zXZ\0"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    ".zip": re.compile(rb"PK(\x03\x04|\x05\x06)"),
}
PACKED_ENDINGS = tuple(_FIRST_BYTES)
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError)
# Beside the data in an archive; never data themselves.
_BYWORK = re.compile(r"(^|/)(__MACOSX/|\.|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
_ABOUT_DATA = re.compile(r"(^|/)(readme|licen[cs]e|changelog|about|notes?)[^/]*$", re.IGNORECASE)


def packing_of(first_bytes: bytes) -> str | None:
    """Ending that files packed in this way have; ``None`` for a file that is not packed."""
    return next((ending for ending, pattern in _FIRST_BYTES.items() if pattern.match(first_bytes)), None)


def without_packing(name: str) -> str:
    """A file's name without the ending of its packing."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in PACKED_ENDINGS else path.name


def unpack(content: BinaryIO, name: str, origin: str, most: int | None = None) -> tuple[bytes, str] | None:
    """Unpacks a file, once.

    Parameters
    ----------
    content : file
    name : str
        The packed file's name.
    origin : str
        For messages.
    most : int, optional
        Most bytes of the unpacked content.

    Returns
    -------
    (content, name), or None
        Unpacked content, and the name that it has or would have; ``None`` if the file is not packed, or is a document
        that only its own reader takes apart, such as a spreadsheet.

    Raises
    ------
    DataError
        If the file is damaged, or an archive that does not hold exactly one file of data.
    ResourceError
        If the content does not fit into memory, or has more than ``most`` bytes.
    """
    content.seek(0)
    packing = packing_of(content.read(16))
    content.seek(0)
    if packing is None:
        return None
    try:
        if packing == ".zip":
            return _unpack_archive(content, origin, most)
        return read_pieces(_OPEN[packing](content), origin, most=most), without_packing(name)
    except _DAMAGED as error:
        if isinstance(error, (DataError, ResourceError)):
            raise
        raise DataError(f"{origin}: can't be unpacked ({error}); the file is damaged or incomplete.") from error


def read_pieces(packed: Any, origin: str, what: str = "unpacks to", most: int | None = None) -> bytes:
    """Reads a stream to its end; raises :class:`ResourceError` once it is too long for free memory, or for ``most``."""
    content, limit = io.BytesIO(), available_memory() // _SHARE_OF_MEMORY
    while piece := packed.read(_PIECE):
        if most is not None and content.tell() + len(piece) > most:
            raise ResourceError(f"{origin}: {what} more than {most:,} bytes; send a part of it.")
        if content.tell() + len(piece) > limit:
            raise _too_large(origin, limit, what)
        content.write(piece)
    return content.getvalue()


def _too_large(origin: str, limit: int, what: str) -> ResourceError:
    return ResourceError(
        f"{origin}: {what} more than {limit:,} bytes, a third of the memory that is free; free some, or read a part of "
        "the data."
    )


def _unpack_archive(content: BinaryIO, origin: str, most: int | None) -> tuple[bytes, str] | None:
    with zipfile.ZipFile(content) as archive:
        names = [member.filename for member in archive.infolist() if not member.is_dir()]
        if "[Content_Types].xml" in names or "mimetype" in names:  # a document of an office program
            return None
        name = _the_data(names, origin)
        if archive.getinfo(name).flag_bits & 1:
            raise DataError(f"{origin}: is encrypted; unpack it first.")
        with archive.open(name) as packed:
            return read_pieces(packed, origin, most=most), PurePosixPath(name).name


def _the_data(names: list[str], origin: str) -> str:
    """The member of an archive that holds data."""
    candidates = [name for name in names if not _BYWORK.search(name)]
    if len(candidates) > 1:
        candidates = [name for name in candidates if not _ABOUT_DATA.search(name)] or candidates
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise DataError(f"{origin}: the archive holds no file.")
    shown = ", ".join(candidates[:5]) + (", ..." if len(candidates) > 5 else "")
    raise DataError(f"{origin}: the archive holds {len(candidates)} files ({shown}); unpack it, and name one of them.")


def _open_zstd(content: BinaryIO) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(content, mode="r"), "zstd")


_OPEN: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda content: gzip.GzipFile(fileobj=content),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _open_zstd,
}
